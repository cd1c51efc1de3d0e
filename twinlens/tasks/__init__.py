"""Tasks as data: queries, items, judgements (`qrels.py`) and the inputs to embed; a module each."""
