"""All scorers by name, and by kind those that a recipe asks for."""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from curation.score import Scorer
from curation.scores.caption import CaptionScorer
from curation.scores.clip import ClipScorer, best_precision
from curation.scores.clusters import ClustersScorer
from curation.scores.concepts import ConceptsScorer
from curation.scores.descriptor import DescriptorScorer
from curation.scores.detector import DetectorScorer
from curation.scores.fooling import FoolingScorer
from curation.scores.generated import GeneratedScorer
from curation.scores.hash import HashScorer
from curation.scores.head import HeadScorer, embedding_name
from curation.scores.image import ImageScorer
from curation.scores.labels import LabelsScorer
from curation.scores.language import LanguageScorer
from curation.scores.outlier import OutlierScorer
from curation.scores.patches import PatchesScorer
from curation.scores.reference import Given, Reference
from curation.scores.settings import (
    CaptionSettings,
    ClustersSettings,
    ConceptsSettings,
    DetectorSettings,
    FoolingSettings,
    GeneratedSettings,
    HeadSettings,
    LabelsSettings,
    OutlierSettings,
    PatchesSettings,
    ScoreSettings,
    WordsSettings,
)
from curation.scores.text import TextScorer
from curation.scores.words import WordsScorer
from curation.units import UNITS
from infra.errors import SluiceError

REGISTRY: Mapping[str, Callable[..., Scorer]] = {
    "image": ImageScorer,
    "text": TextScorer,
    "language": LanguageScorer,
    "hash": HashScorer,
    "descriptor": DescriptorScorer,
    "clip": ClipScorer,
}


def pixel_scorers(only_matching: bool = False) -> list[Scorer]:
    """The scorers that need no model; only those that find equal pictures, if asked for."""
    every = ["image", "text", "language", "hash", "descriptor"]
    names = ["hash", "descriptor"] if only_matching else every
    return [REGISTRY[name]() for name in names]


def with_meanings(schemas: Mapping[str, pa.Schema]) -> dict[str, pa.Schema]:
    """Schemas of stored columns; those written before units were told say what they would now."""
    return {name: _with_meanings(schema, REGISTRY.get(name)) for name, schema in schemas.items()}


def _with_meanings(schema: pa.Schema, scorer: Any) -> pa.Schema:
    declared = {(each.name, each.type): each for each in scorer.columns} if scorer else {}
    return pa.schema(
        field if UNITS in (field.metadata or {}) else declared.get((field.name, field.type), field)
        for field in schema
    )


def chosen_scorer(name: str, settings: ScoreSettings, given: Given) -> Scorer:
    """The scorer that a recipe asks for under `curate.scores.<name>`."""
    match settings:
        case HeadSettings():
            return _head(name, settings, given.clip)
        case WordsSettings(file=file):
            return WordsScorer(name, file)
        case ClustersSettings(centroids=centroids, references=references, vectors=vectors):
            return ClustersScorer(name, centroids, references, vectors)
        case ConceptsSettings(prompts=prompts, templates=templates):
            return ConceptsScorer(name, given.clip, tuple(prompts.items()), templates)
        case OutlierSettings(vectors=vectors, components=components, limit=limit):
            return OutlierScorer(name, _trusted(name, given), vectors, components, limit)
        case FoolingSettings(file=file, limit=limit):
            return FoolingScorer(name, given.clip, _trusted(name, given), file, limit)
        case LabelsSettings(captions=captions, limit=limit):
            reference = _trusted(name, given) if captions == "trusted" else given.pool
            return LabelsScorer(name, given.clip, reference, limit)
        case GeneratedSettings():
            return GeneratedScorer(name)
        case PatchesSettings():
            return PatchesScorer(name, given.clip)
        case DetectorSettings(model=model, label=label):
            return DetectorScorer(name, model, label)
        case CaptionSettings():
            return _caption(name, settings)


def _caption(name: str, settings: CaptionSettings) -> CaptionScorer:
    chosen = settings.precision
    return CaptionScorer(
        name,
        settings.model,
        settings.prompt,
        settings.max_tokens,
        settings.beams,
        settings.temperature,
        settings.seed,
        best_precision() if chosen == "auto" else chosen,
    )


def _head(name: str, settings: HeadSettings, clip: ClipScorer) -> HeadScorer:
    scorer = settings.vectors.partition("/")[0]
    made_by = embedding_name(clip.settings()) if scorer == clip.name else scorer
    told = (settings.embedding, settings.units, settings.polarity)
    return HeadScorer(name, settings.file, settings.vectors, made_by, *told)


def _trusted(name: str, given: Given) -> Reference:
    if given.trusted is None:
        raise SluiceError(
            f"curate.scores.{name} compares with the trusted split, the recipe has none",
            "give data.trusted: a few hundred samples or more that are as they should be",
        )
    return given.trusted
