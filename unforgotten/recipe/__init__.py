"""What was asked: the YAML as one typed model, and what its words name."""
