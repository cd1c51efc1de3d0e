"""Tests of the encoders: each family against its own library."""
