"""A user's rows, in the shapes that other programs write, read as conversations."""
