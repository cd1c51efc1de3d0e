"""Tools for the repository itself; none of them is installed."""
