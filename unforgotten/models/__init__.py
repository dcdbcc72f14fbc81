"""Models from folders and the Hub: opened within their own store, bounded, and loaded from a private copy."""
