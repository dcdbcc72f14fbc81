"""A model's folder or Hub id: opened within its own store, bounded, and gathered in a private copy."""
