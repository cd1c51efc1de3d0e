"""Plumbing and file formats (paths, tables, vectors, downloads, kept parts, devices); decides no result."""
