"""Tests of what the pipeline trains by itself."""
