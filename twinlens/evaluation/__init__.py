"""From runs to numbers: measures such as nDCG (`measures.py`), intervals, gates, costs, comparisons."""
