"""What a user can ask: one verb, one file, or a folder where it needs several."""
