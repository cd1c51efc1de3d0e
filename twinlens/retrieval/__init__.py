"""Retrievers and rerankers: exact search, BM25 and its tokenizer (`tokenize.py`), fusion, runs."""
