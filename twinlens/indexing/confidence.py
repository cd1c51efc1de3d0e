"""How sure an answer is: the rule that stands in the index's manifest, where it is about what was asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float32

from twinlens.core.errors import QueryError
from twinlens.indexing.index import Index
from twinlens.indexing.query import CheckedQuery
from twinlens.indexing.store import IMAGE_VECTOR
from twinlens.indexing.validate import check_share
from twinlens.retrieval.confidence import BEST, ConfidenceRule

NOT_ABSENT = "it may be there all the same"


@dataclass(frozen=True)
class Judge:
    """Judge of one query's answer: with the rule, or with the reason why none says anything of it."""

    rule: ConfidenceRule | None
    why: str
    wanted: float | None  # `only_if_sure`

    @classmethod
    def of(cls, index: Index, mode: str, asked: CheckedQuery, wanted: float | None) -> Self:
        """Choose the rule.

        Raises:
            QueryError: only a sure answer is wanted, and none can be as sure as that.
        """
        told = index.manifest.confidence
        rule, why = told.get("rule"), told.get("why") or "the index was built without it: `dvc repro index`"
        if mode != "vector" or asked.text is None or asked.shows or asked.unlikes:
            rule, why = None, "it was measured for words alone, in mode 'vector'"
        elif IMAGE_VECTOR not in index.spaces:
            rule, why = None, why or "words search captions here"
        elif (fitted := told.get("vectors", "float32")) != (held := index.manifest.form.name):
            rule, why = None, f"it was fitted on {fitted} vectors, and the index holds {held}: `dvc repro index`"
        elif index.manifest.approximate:
            rule, why = None, "an approximate search may miss what it compares with"
        judge = cls(None if rule is None else ConfidenceRule.of_json(rule), why, wanted)
        if wanted is None:
            return judge
        check_share(wanted, "only_if_sure")
        if judge.rule is None:
            raise QueryError(f"only_if_sure: how sure an answer is, is not known here: {why}")
        if wanted > (most := judge.rule.most or 0.0):
            raise QueryError(
                f"only_if_sure: {wanted:g} is more than {judge.rule.pictures:,} validation pictures show: at most "
                f"{most:g} is promised here"
            )
        return judge

    @property
    def depth(self) -> int:
        """Pictures whose scores are asked for."""
        return 0 if self.rule is None else BEST

    def rate(self, scores: Float32[np.ndarray, " found"], notes: list[str]) -> float | None:
        """Rate the first picture, and note where it is not sure enough; None where no rule says anything."""
        if self.rule is None or not len(scores):
            return None
        confidence = self.rule.rate(scores)
        if self.refuses(confidence):
            notes.append(
                f"no answer is as sure as {self.wanted:g}: what is looked for was not told apart; {NOT_ABSENT}"
            )
        return confidence

    def refuses(self, confidence: float | None) -> bool:
        """Whether an answer is not sure enough to be given."""
        return self.wanted is not None and confidence is not None and confidence < self.wanted
