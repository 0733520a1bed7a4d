"""The table of a race: `<store>/races/<digest>/race.json`, from evaluations and measures alone.

Values are means over seeds. Their intervals are Student's t over the seeds where there are
several, else a bootstrap over the test images. A difference is paired: the same seed, the same
test images; beside the interval over seeds stands the one over images (`over_images`), of the
mean over seeds of what each image was answered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.measures.measure import FILE as MEASURES
from flows.race.settings import RaceSettings
from infra import artifacts
from infra.artifacts import Artifact, Part, Spec
from infra.dataset import read_table
from infra.digests import canonical_json
from infra.errors import SluiceError
from infra.filesystem import join, read_json, write_bytes
from infra.stage import Draft
from pretrain.evaluate.intervals import Estimate, accuracies, over_seeds
from pretrain.mix import Weight

CODE = 1
FOLDER, FILE = "races", "race.json"
ENTRANT = "encoder"  # the name of the one encoder of each evaluation


def share_of(mix: Mapping[str, Any], name: str) -> float | None:
    """The share of one name in a mix of weights; None where any of these changes over the run."""
    weights = {key: float(weight) for key, weight in mix.items() if isinstance(weight, int | float)}
    if len(weights) < len(mix):
        return None
    return weights.get(name, 0.0) / sum(weights.values())


@dataclass(frozen=True)
class Entrant:
    """A version in the race, its measures and its evaluations, one a seed.

    baseline: the label of the entrant it is compared with, or None. mix: what it learns from, and
    the share of each; `curated` is the version.
    """

    label: str
    url: str
    digest: str
    baseline: str | None
    measures_url: str
    measures: str
    evaluation_urls: tuple[str, ...]
    evaluations: tuple[str, ...]
    mix: Mapping[str, Weight]

    @property
    def own_share(self) -> float | None:
        """Of its own version in the samples that it sees; None where that changes."""
        return share_of(self.mix, "curated")

    def identity(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "version": self.digest,
            "baseline": self.baseline,
            "measures": self.measures,
            "evaluations": list(self.evaluations),
            **({"mix": dict(self.mix)} if len(self.mix) > 1 else {}),
        }


def table_draft(store: str, entrants: Sequence[Entrant], settings: RaceSettings) -> Draft:
    """The table of these entrants, in this order."""
    identity = {"entrants": [entrant.identity() for entrant in entrants], **_setting(settings)}
    parents = tuple(
        digest for each in entrants for digest in (each.digest, each.measures, *each.evaluations)
    )
    spec = Spec("race", "flows.race", identity, parents, CODE)
    return Draft(join(store, FOLDER, spec.digest), spec)


def _setting(settings: RaceSettings) -> dict[str, Any]:
    """What all entrants have alike."""
    train = settings.train.identity()
    return {
        "samples_seen": settings.samples_seen,
        "batch": settings.train.batch,
        "seeds": settings.seeds,
        "objective": settings.train.objective,
        "model": train["model"],
        "confidence": settings.evaluate.confidence,
        "resamples": settings.evaluate.resamples,
        "interval_seed": settings.evaluate.seed,
        "tasks": list(settings.evaluate.tasks),
        "measures": settings.measures.model_dump(),
    }


@dataclass(frozen=True)
class TableWork:
    """Writes `race.json`: one unit of work."""

    url: str
    entrants: tuple[Entrant, ...]
    settings: RaceSettings

    def __call__(self, value: object, todo: Sequence[str]) -> dict[str, Part]:
        answers = {each.label: _answers(each) for each in self.entrants}
        found = [self._line(each, answers) for each in self.entrants]
        table = {**_setting(self.settings), "entrants": found}
        file = write_bytes(self.url, FILE, canonical_json(table))
        return {"": Part("all", (file,), len(found), len(found))}

    def _line(self, entrant: Entrant, answers: Mapping[str, "Answers"]) -> dict[str, Any]:
        made = artifact_at(entrant.url)
        rows, kept = made.totals["rows"], made.totals["kept"]
        own, share = answers[entrant.label], entrant.own_share
        own_seen = None if share is None else share * self.settings.samples_seen
        line = {
            "label": entrant.label,
            "version": entrant.digest,
            "baseline": entrant.baseline,
            "rows": rows,
            "kept": kept,
            "kept_share": kept / rows if rows else 0.0,
            "samples_seen": self.settings.samples_seen,
            "epochs": own_seen / kept if kept and own_seen is not None else None,
            "mix": dict(entrant.mix),
            "measures": read_json(join(entrant.measures_url, MEASURES)),
            "test_samples": len(own.labels),
            "evaluation": {
                task: figures(right, own.labels, self.settings) for task, right in own.right.items()
            },
            "difference": None,
        }
        if entrant.baseline is not None:
            rival = answers[entrant.baseline]
            _check_pair(own, rival, entrant)
            line["difference"] = {
                task: figures(right - rival.right[task], own.labels, self.settings)
                for task, right in own.right.items()
                if task in rival.right
            }
        return line


@dataclass(frozen=True)
class Answers:
    """Of one entrant: uids and class numbers of the test samples [n]; right [seeds, n] by task."""

    uids: list[str]
    labels: NDArray[np.int64]
    right: Mapping[str, NDArray[np.float64]]


def _answers(entrant: Entrant) -> Answers:
    tables = [
        read_table(join(url, "predictions", f"{ENTRANT}.parquet"))
        for url in entrant.evaluation_urls
    ]
    first = tables[0]
    for table in tables:
        if table["uid"] != first["uid"]:
            raise SluiceError(
                f"the evaluations of {entrant.label!r} are not of the same samples",
                "remove these evaluations' folders and run again: "
                + ", ".join(entrant.evaluation_urls),
            )
    numbers = np.unique(first["label"].to_numpy(), return_inverse=True)[1].astype(np.int64)
    tasks = [name for name in first.column_names if name not in ("uid", "label")]
    right = {task: np.stack([_right(table, task) for table in tables]) for task in tasks}
    return Answers(first["uid"].to_pylist(), numbers, right)


def _right(table: pa.Table, task: str) -> NDArray[np.float64]:
    """1 where an answer is the label, else 0."""
    return (table[task].to_numpy() == table["label"].to_numpy()).astype(np.float64)


def _check_pair(ours: Answers, theirs: Answers, entrant: Entrant) -> None:
    if ours.uids != theirs.uids:
        raise SluiceError(
            f"{entrant.label!r} and {entrant.baseline!r} were not evaluated on the same samples",
            "remove their evaluations' folders and run again",
        )


def figures(
    right: NDArray[np.float64], labels: NDArray[np.int64], settings: RaceSettings
) -> dict[str, Any]:
    """`accuracy` and `mean_per_class` of right [seeds, n]: value, low, high, and those of seeds."""
    asked = settings.evaluate
    of_images = accuracies(
        right.mean(axis=0), labels, asked.resamples, asked.confidence, asked.seed
    )
    one_hot = np.eye(int(labels.max()) + 1)[labels]
    of_seeds = {
        "accuracy": right.mean(axis=1),
        "mean_per_class": (right @ one_hot / one_hot.sum(axis=0)).mean(axis=1),
    }
    return {
        metric: _figure(estimate, [float(value) for value in of_seeds[metric]], asked.confidence)
        for metric, estimate in of_images.items()
    }


def _figure(images: Estimate, seeds: list[float], confidence: float) -> dict[str, Any]:
    known = over_seeds(seeds, confidence) if len(seeds) > 1 else images
    return {
        "value": known.value,
        "low": known.low,
        "high": known.high,
        "over": "seeds" if len(seeds) > 1 else "images",
        "over_images": [images.low, images.high],
        "seeds": seeds,
    }


def artifact_at(url: str) -> Artifact:
    artifact = artifacts.load(url)
    if artifact is None:
        raise SluiceError(f"nothing is committed at {url}", "run the race again")
    return artifact
