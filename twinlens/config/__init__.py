"""params.yaml and the cards as types, read and checked before anything slow runs."""
