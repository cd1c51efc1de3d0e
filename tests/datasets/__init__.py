"""Dataset adapters, each against tiny copies of its publisher's layout."""
