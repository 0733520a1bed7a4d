"""`--plan`: which kind of index would be built of a version, and why; or which one is there."""

import textwrap

from indexes.building import figures_of
from indexes.choice import choose
from indexes.embeddings import vectors_of
from indexes.measure import TARGET
from indexes.origin import origin_of
from indexes.settings import IndexSettings
from infra import artifacts
from infra.artifacts import Artifact
from infra.dataset import Dataset
from infra.errors import SluiceError
from infra.stage import Draft

WIDTH = 100


def kind_told(index: Draft, dataset_url: str, settings: IndexSettings) -> str:
    """The kind of the index to be made at `index`, or of the one that is there, in a paragraph.

    Raises SluiceError where the version is there and none can be built of it.
    """
    made, version = artifacts.load(index.url), artifacts.load(dataset_url)
    if made is not None:
        told = _stored(made)
    elif version is not None:
        told = _to_be(Dataset(version), settings)
    elif settings.kind != "auto":
        told = f"{settings.kind} (as the settings say)"
    else:
        told = (
            "cannot be told before the version is there; it follows from how many rows that keeps "
            "and from the dimension of their vectors"
        )
    return textwrap.fill(f"kind of index: {told}", WIDTH, break_long_words=False)


def _stored(made: Artifact) -> str:
    figures = figures_of(made)
    recall = ", ".join(f"{of} {value:.4f}" for of, value in figures[TARGET].items())
    return f"{_kind(figures['kind'], figures['lists'], figures['why'])}; {TARGET}: {recall}"


def _to_be(dataset: Dataset, settings: IndexSettings) -> str:
    kept = int(dataset.artifact.totals["kept"])
    if not kept:
        raise SluiceError(
            f"{dataset.url} keeps no row, so that there is nothing to index",
            "look at the report's funnel: the rules may drop everything",
        )
    embedding = vectors_of(dataset, settings.embedding)
    full = embedding.dimension
    if settings.dimensions > full:
        raise SluiceError(
            f"index.dimensions={settings.dimensions}, {embedding.name} has {full}",
            "give fewer dimensions, or 0 for all",
        )
    if settings.after is not None and (told := _inherited(dataset, settings)):
        return told
    choice = choose(settings, kept, settings.dimensions or full, embedding.is_local)
    return _kind(choice.kind, choice.lists, choice.why)


def _inherited(dataset: Dataset, settings: IndexSettings) -> str | None:
    """The kind that the quantizer of `index.after` was trained for: it is not chosen anew."""
    origin = origin_of(dataset.url, dataset.artifact.digest, settings)
    quantizer = artifacts.load(origin.quantizer_url)
    if quantizer is None:
        return None
    (part,) = quantizer.parts
    kind, lists, why = (part.extra[name] for name in ("kind", "lists", "why"))
    return f"{_kind(kind, lists, why)}; its quantizer is that of {settings.after}"


def _kind(kind: str, lists: int, why: str) -> str:
    return f"{kind} of {lists:,} lists ({why})" if lists else f"{kind} ({why})"
