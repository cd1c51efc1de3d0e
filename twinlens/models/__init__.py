"""Encoders, captioners, classifiers and heads: one module for each library's family."""
