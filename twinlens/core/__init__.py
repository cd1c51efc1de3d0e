"""Plumbing and file formats: paths, tables, vectors, downloads, scratch, devices."""
