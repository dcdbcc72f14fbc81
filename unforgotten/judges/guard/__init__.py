"""Guards: judges that are models, in this process or behind a server."""
