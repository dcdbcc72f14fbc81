"""One corpus, one file: rows(), and score() where an answer can be checked."""
