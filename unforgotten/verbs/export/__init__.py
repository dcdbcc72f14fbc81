"""A run's model as others take it, proven by the same replies."""
