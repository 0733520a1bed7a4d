"""Duplicates: a ladder of searches that leave one graph of pairs, and the choice of who stays.

`edges` searches once and stores pairs down to floors; `choice` applies thresholds and the keep
order to them. The rungs, in order: equal bytes, equal pixels, close perceptual hashes, close
embeddings.
"""

from curation.dedup.choice import (
    EXACT_RUNG,
    NEAR_RUNG,
    PIXELS_RUNG,
    Bools,
    Duplicates,
    Pairs,
    edge_nodes,
    find_duplicates,
    greedy,
    preference,
    tie_words,
)
from curation.dedup.edges import (
    ALL,
    EDGES,
    EXACT_KIND,
    PIXELS_KIND,
    EdgesWork,
    edges_draft,
)
from curation.dedup.images import Ids
from curation.dedup.older import EDGES_FILE, PERCEPTUAL_KIND, older_url, read_edges

__all__ = [
    "ALL",
    "EDGES",
    "EDGES_FILE",
    "EXACT_KIND",
    "EXACT_RUNG",
    "NEAR_RUNG",
    "PERCEPTUAL_KIND",
    "PIXELS_KIND",
    "PIXELS_RUNG",
    "Bools",
    "Duplicates",
    "EdgesWork",
    "Ids",
    "Pairs",
    "edge_nodes",
    "edges_draft",
    "find_duplicates",
    "greedy",
    "older_url",
    "preference",
    "read_edges",
    "tie_words",
]
