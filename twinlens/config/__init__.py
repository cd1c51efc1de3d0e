"""The settings of `params.yaml` and the cards as types, read and checked; mistakes told by file and line."""
