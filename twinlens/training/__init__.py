"""Training: what the cards that learn have in common, and one module per objective."""
