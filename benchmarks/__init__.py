"""Measurements that anyone can rerun: ratios of two ways to do the same work, side by side in one run."""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as in every stage
