"""The upkeep of a store: gc, verify, diff, lineage; each command is a function here, too."""
