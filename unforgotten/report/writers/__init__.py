"""One writer for each place where a table is read."""
