"""Posed photographs on disk read as captures, one source per layout."""
