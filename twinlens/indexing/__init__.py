"""The search index: built from what was embedded, opened and searched as a library.

`build` writes a table, `opening` finds the one that a manifest names, `searcher` answers queries. `twinlens.search`
is the way in.
"""
