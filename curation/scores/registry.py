"""All scorers by name."""

from collections.abc import Callable, Mapping

from curation.score import Scorer
from curation.scores.clip import ClipScorer
from curation.scores.descriptor import DescriptorScorer
from curation.scores.hash import HashScorer
from curation.scores.image import ImageScorer
from curation.scores.text import TextScorer

REGISTRY: Mapping[str, Callable[..., Scorer]] = {
    "image": ImageScorer,
    "text": TextScorer,
    "hash": HashScorer,
    "descriptor": DescriptorScorer,
    "clip": ClipScorer,
}


def pixel_scorers(only_matching: bool = False) -> list[Scorer]:
    """The scorers that need no model; only those that find equal pictures, if asked for."""
    names = ["descriptor"] if only_matching else ["image", "text", "hash", "descriptor"]
    return [REGISTRY[name]() for name in names]
