"""A version anew: its transient failures are fetched again, all else is kept where it is.

The new version has the shards and rows of the old one. Rows that failed in a way that may pass
come again from the web; all others are taken over, and their images stay in the tars they are in.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curation.fetch.observed import Observed, write_observed
from curation.ingest import EXPECTED, ingest_row
from curation.intake import Intake, whole
from curation.outcomes import TRANSIENT
from curation.sources.base import Record
from infra import samples
from infra.artifacts import Artifact, Part, Spec
from infra.dataset import ShardWriter, open_dataset, part_name, read_table
from infra.errors import SluiceError
from infra.filesystem import join
from infra.stage import Draft, Item

CODE = 1
DATASET = "pool"


def failed_version(store: str, name: str) -> Artifact:
    """The version `name` stands for: DATASET@VERSION, VERSION, or "latest".

    Raises SluiceError where it is not there, or nothing in it failed in a way that may pass.
    """
    dataset, at, version = name.partition("@")
    if not at:
        dataset, version = DATASET, name
    latest = version in ("", "latest")
    found = open_dataset(store, dataset if latest else f"{dataset}@{version}").artifact
    if not any(found.totals["dropped"].get(reason) for reason in TRANSIENT):
        raise SluiceError(
            f"{dataset}@{found.digest} has no transient failure to fetch again",
            "leave out --retry-failed; its other rejected rows would fail again",
        )
    return found


def retry_draft(store: str, old: Artifact, intake: Intake) -> Draft:
    """The version to be: a child of `old`."""
    settings = {"name": DATASET, **intake.policy(fetches=True)}
    if promises(old.settings):
        settings["expected"] = True
    spec = Spec("dataset", "curation.retry", settings, (old.digest,), CODE)
    return Draft(join(store, DATASET, spec.digest), spec)


def promises(settings: Mapping[str, Any]) -> bool:
    """Whether the version with these settings was checked against promised hashes."""
    sources: Sequence[Mapping[str, Any]] = settings.get("sources", ())
    return bool(settings.get("expected")) or any(source.get("expected") for source in sources)


def retry_items(old: Artifact) -> list[Item]:
    """One item for each shard of the old version."""
    return [Item(part.name, int(part.name)) for part in old.parts]


@dataclass(frozen=True)
class RetryWork:
    """Writes one shard of the version at `url` from that of the version at `old`."""

    url: str
    old: str
    intake: Intake
    expected: bool = False  # whether hashes were promised

    def __call__(self, value: int, todo: list[str]) -> dict[str, Part]:
        name, states, observed = part_name(value), Counter[str](), Observed()
        rows = read_table(join(self.old, "rows", f"{name}.parquet")).to_pylist()
        again = (self._record(row) for row in rows if is_transient(row))
        fetched = whole(again, self.intake, observed)
        with ShardWriter(self.url, value) as writer:
            tars = [samples.locate(self.old, tar.url) for tar in samples.read_tars(self.old, name)]
            for row in rows:
                image = None
                if is_transient(row):
                    row, image = ingest_row(value, row["row"], next(fetched))
                elif row["tar"] is not None:
                    row["tar"] = writer.refer(tars[row["tar"]])
                writer.add(row, image)
                states[row["reason"] or ""] += 1
        write_observed(self.url, name, observed)
        kept = states.pop("", 0)
        part = Part(name, tuple(writer.files), len(rows), kept, dict(states))
        return dict.fromkeys(todo, part)

    def _record(self, row: Mapping[str, Any]) -> Record:
        """The record a row was made of, as far as it is to be fetched again."""
        meta = json.loads(row["meta"] or "{}")
        promised = meta.pop(EXPECTED, None) if self.expected else None
        return Record(
            row["source"],
            caption=row["caption"],
            url=row["url"],
            uid=row["uid"],
            meta=meta,
            expected=promised,
        )


def is_transient(row: Mapping[str, Any]) -> bool:
    return row["reason"] in TRANSIENT and row["url"] is not None
