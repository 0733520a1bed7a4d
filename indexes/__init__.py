"""Vectors to neighbours and searchable indexes."""
