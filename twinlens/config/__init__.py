"""What may be chosen: the settings of `params.yaml` and the cards of datasets, models and captioners, as types."""
