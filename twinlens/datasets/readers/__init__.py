"""Readers of folders, archives, Parquet and tabular files, for the adapters."""
