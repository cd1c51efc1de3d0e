"""Retrievers: from a task and vectors to runs, exactly."""
