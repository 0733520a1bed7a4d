"""Recipes, Prefect flows, the command line and the report of a run."""
