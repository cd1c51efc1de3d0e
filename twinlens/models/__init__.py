"""One module for each library's family; where weights are, and what heads are."""
