"""Replies from a model in this process or from a server; no judge is loaded here."""
