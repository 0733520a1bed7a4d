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
    Graph,
    Pairs,
    choose,
    edge_nodes,
    find_duplicates,
    graph_of,
    greedy,
    preference,
    ranks,
    tie_words,
)
from curation.dedup.edges import (
    ALL,
    EXACT_KIND,
    PIXELS_KIND,
    EdgesWork,
    edges_draft,
)
from curation.dedup.images import Ids
from curation.dedup.older import PERCEPTUAL_KIND, older_url
from curation.dedup.stored import EDGES, EDGES_FILE, read_edges

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
    "Graph",
    "Ids",
    "Pairs",
    "choose",
    "edge_nodes",
    "edges_draft",
    "find_duplicates",
    "graph_of",
    "greedy",
    "older_url",
    "preference",
    "ranks",
    "read_edges",
    "tie_words",
]
