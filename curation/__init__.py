"""Samples to scores, verdicts and curated versions."""
