"""Takedown: samples that must go leave every version, its scores, and what ingest would take."""
