"""Evaluation: from runs to measures, intervals, gates, costs and comparisons."""
