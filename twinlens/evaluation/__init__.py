"""Evaluation of runs: measures such as nDCG (`measures.py`), intervals, gates, costs, comparisons."""
