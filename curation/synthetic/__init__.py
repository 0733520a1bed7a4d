"""Synthetic sources: images drawn from settings alone, written as ordinary dataset versions."""
