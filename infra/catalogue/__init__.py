"""The catalogue of a store: what lies in it, what refers to what, and looking after it.

survey -> nodes: every artifact, finished or not     versions: of datasets, and quickly
gc, tags, verify: what goes, what is to stay, whether all is as it was committed
notes: what runs leave beside what they make
"""
