"""Whole-word tokenizer, for the small models that are trained from nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"


def learn_tokenizer(texts: Iterable[str], max_words: int = 10_000) -> PreTrainedTokenizerFast:
    """Learn a tokenizer whose words are those of `texts`, the commonest `max_words` of them.

    The end token has the highest number, which is how CLIP's text tower finds where to pool.
    """
    lower, split = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    # Counted as the tokenizer will read them: Python's own idea of a word differs in many scripts.
    counts = Counter(word for text in texts for word, _ in split.pre_tokenize_str(lower.normalize_str(text)))
    common = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:max_words]]
    words = [PAD, UNKNOWN, START, *sorted(common), END]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = lower
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        sep_token=END,
        cls_token=START,
        split_special_tokens=True,  # a text that spells out a special token does not end there
    )
