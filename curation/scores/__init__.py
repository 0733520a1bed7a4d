"""Scorers, one file each. To add one: a file here with a class like `TextScorer`, and its line
in `registry.py`. Its columns are then there for rules, sweeps and the report.
"""
