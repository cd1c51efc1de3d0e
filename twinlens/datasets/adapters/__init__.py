"""One adapter for each publisher's layout, all giving the same annotations."""
