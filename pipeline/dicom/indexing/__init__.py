"""Indexing: every file of a source, looked at once and remembered."""
