"""Evaluation as a stage: one item an encoder, then the differences between encoders.

    <store>/evaluations/<digest>/results/<encoder>.parquet       RESULTS, one row a figure
    <store>/evaluations/<digest>/predictions/<encoder>.parquet   uid, label, an answer per task
    manifest.extra["comparisons"]                                RESULTS rows of differences

The bank or training set of every task is the trusted split, the test set the evaluation split.
Light: heavy imports happen where a worker does the work.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from infra.artifacts import Artifact, Part, Spec
from infra.dataset import read_table, write_table
from infra.errors import SluiceError
from infra.filesystem import join
from infra.stage import Draft, Item
from pretrain.evaluate_settings import EvaluateSettings

CODE = 1  # raise when the same inputs and settings give other figures
FOLDER = "evaluations"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

RESULTS = pa.schema(
    [
        ("encoder", pa.string()),  # a name of the recipe; "a - b" for a difference
        ("task", pa.string()),
        ("metric", pa.string()),  # accuracy, ece_15_bins; ..._over_seeds for a mean of pairs
        ("value", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("n", pa.int64()),  # test samples; pairs for ..._over_seeds
        ("seed", pa.int64()),  # of the encoder's training or random weights; null where none
    ]
)


def evaluate_draft(
    store: str,
    encoders: Mapping[str, str],
    datasets: Mapping[str, str],
    settings: EvaluateSettings,
) -> Draft:
    """The evaluation to be.

    encoders: by name, a run's digest, "random:<run digest>" or "pixels". datasets: digests of
    the versions "train" (bank, training set) and "test", and of "outside" where
    out_of_distribution is asked for (`sources.content` gives that of Parquet files). Raises
    SluiceError for a name that cannot be a file's, or a comparison of an encoder that is not
    there.
    """
    check_names(encoders, settings)
    roles = ("train", "test", *(["outside"] if "out_of_distribution" in settings.tasks else []))
    spec = Spec(
        "evaluation",
        "evaluate",
        {
            "encoders": dict(sorted(encoders.items())),
            "datasets": {role: datasets[role] for role in roles},
            **settings.identity(),
        },
        tuple(datasets[role] for role in roles)
        + tuple(sorted({source.rpartition(":")[2] for source in encoders.values()} - {"pixels"})),
        CODE,
    )
    return Draft(join(store, FOLDER, spec.digest), spec)


def check_names(encoders: Mapping[str, str], settings: EvaluateSettings) -> None:
    """Refuse encoder names that are no file names, and comparisons of unknown encoders."""
    for name in encoders:
        if not NAME.fullmatch(name):
            raise SluiceError(
                f"encoder name {name!r} has characters a file name should not have",
                "use letters, digits, dots, dashes and underscores",
            )
    for comparison in settings.compare:
        for name in (name for pair in comparison.pairs for name in pair):
            if name not in encoders:
                close = difflib.get_close_matches(name, encoders, 1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise SluiceError(
                    f"evaluate.compare {comparison.name!r} names encoder {name!r}, which is not "
                    "evaluated",
                    f"{hint}evaluated are: {', '.join(sorted(encoders))}",
                )


def evaluate_items(encoders: Mapping[str, str]) -> list[Item]:
    """One item an encoder; its value is the encoder's name."""
    return [Item(name, name) for name in encoders]


@dataclass(frozen=True)
class EvaluateWork:
    """Evaluates one encoder and writes its results and answers under `url`.

    encoders: by name, a run's URL, "random:<run url>" or "pixels". The other URLs are of dataset
    versions, or of Parquet with image bytes; outside_url is for out_of_distribution.
    """

    url: str
    encoders: Mapping[str, str]
    train_url: str
    test_url: str
    settings: EvaluateSettings
    outside_url: str = ""

    def __call__(self, name: str, todo: list[str]) -> dict[str, Part]:
        from pretrain import encoders
        from pretrain.evaluate import tasks

        settings = self.settings
        with tasks.single_thread():
            encoder = encoders.load(self.encoders[name], seed=settings.seed, pixels=settings.pixels)
            outcome = tasks.evaluate(
                encoder, self.train_url, self.test_url, settings, self.outside_url
            )
        rows = [
            {"encoder": name, "seed": encoder.seed, **figure} for figure in outcome.rows(settings)
        ]
        table = pa.table({"uid": outcome.uids, "label": outcome.labels, **outcome.answers})
        files = (
            write_table(
                self.url, f"results/{name}.parquet", pa.Table.from_pylist(rows, schema=RESULTS)
            ),
            write_table(self.url, f"predictions/{name}.parquet", table),
        )
        kept, lost = len(outcome.uids), outcome.undecodable
        dropped = {"undecodable": lost} if lost else {}
        part = Part(name, files, kept + lost, kept, dropped, extra=outcome.notes)
        return dict.fromkeys(todo, part)

    def comparisons(self, parts: Mapping[str, Sequence[Part]]) -> dict[str, dict[str, Any]]:
        """The differences `settings.compare` asks for, as figures of the whole.

        Goes to `run_stage` as `extra`: they need the answers of every encoder.
        """
        if not self.settings.compare:
            return {draft: {"comparisons": []} for draft in parts}
        from pretrain.evaluate import tasks

        names = sorted({n for entry in self.settings.compare for pair in entry.pairs for n in pair})
        answers = {n: read_table(join(self.url, "predictions", f"{n}.parquet")) for n in names}
        rows = tasks.compare(answers, self.settings)
        return {draft: {"comparisons": rows} for draft in parts}


def lower_is_better(metric: str) -> bool:
    """Of a calibration error and a Brier score."""
    return "_ece_" in metric or "_brier" in metric


def read_results(evaluation: Artifact) -> pa.Table:
    """All figures of an evaluation (RESULTS), those of differences last."""
    tables = [
        read_table(evaluation.path(file.path))
        for part in evaluation.parts
        for file in part.files
        if file.path.startswith("results/")
    ]
    rows = evaluation.manifest["extra"].get("comparisons", [])
    return pa.concat_tables([*tables, pa.Table.from_pylist(rows, schema=RESULTS)])
