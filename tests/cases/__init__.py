"""Faults that people reported of other tools, rebuilt as small inputs and run through the stages' own functions.

A case has a number, what lies in its files and what has to come out. `python -m tests.cases` tells each with PASS or
FAIL.
"""
