"""Tasks: who searches for what, and what is relevant."""
