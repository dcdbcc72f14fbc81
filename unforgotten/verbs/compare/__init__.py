"""A grid of runs, each done once, by one process or by many."""
