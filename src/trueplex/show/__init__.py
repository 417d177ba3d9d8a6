"""Seeing thought: stored traces for people to read, on a terminal and as a page."""
