"""All scorers by name, and by kind those that a recipe asks for."""

from collections.abc import Callable, Mapping

from curation.score import Scorer
from curation.scores.clip import ClipScorer
from curation.scores.concepts import ConceptsScorer
from curation.scores.descriptor import DescriptorScorer
from curation.scores.hash import HashScorer
from curation.scores.head import HeadScorer
from curation.scores.image import ImageScorer
from curation.scores.reference import Given
from curation.scores.settings import ConceptsSettings, ScoreSettings
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


def chosen_scorer(name: str, settings: ScoreSettings, given: Given) -> Scorer:
    """The scorer that a recipe asks for under `curate.scores.<name>`."""
    if isinstance(settings, ConceptsSettings):
        prompts = tuple(settings.prompts.items())
        return ConceptsScorer(name, given.clip, prompts, settings.templates)
    return HeadScorer(name, settings.file, settings.vectors)
