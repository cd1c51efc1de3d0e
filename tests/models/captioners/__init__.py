"""Tests of the captioners."""
