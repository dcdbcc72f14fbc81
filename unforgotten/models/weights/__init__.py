"""Weights on disk, one tensor at a time: read, joined, edited and written."""
