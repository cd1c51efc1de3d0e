"""Tests of queries learned from exemplars."""
