"""Readers of archives, Parquet and tabular files, for the adapters."""
