"""The curated version: what verdicts keep and the selection, if any, picks, in shards of their own.

Shard and row numbers stay what they were, and rows/ has a row for every row of the source, so
that the source's scores and embeddings are row-aligned with the curated version, too.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.columns import artifact_at, folder_digest, rows_url
from infra.artifacts import Part, Spec
from infra.dataset import ROWS, ShardWriter, part_name, read_samples, read_table
from infra.errors import SluiceError
from infra.filesystem import join
from infra.samples import Sample
from infra.stage import Draft

CODE = 2


def curate_draft(
    store: str,
    name: str,
    dataset_url: str,
    dataset_digest: str,
    verdicts_digest: str,
    score_folders: Mapping[str, str],
    edges_digest: str | None,
    selection_digest: str | None = None,
) -> Draft:
    """The version `name` of a store that holds what verdicts (and a selection) keep of a dataset.

    Its settings name the source by dataset and version, never by place: a store can be moved.
    """
    source = {"dataset": dataset_url.rstrip("/").split("/")[-2], "version": dataset_digest}
    settings = {
        "source": source,
        "verdicts": verdicts_digest,
        "scores": dict(score_folders),
        "edges": edges_digest,
    }
    if selection_digest is not None:
        settings["selection"] = selection_digest
    digests = [folder_digest(folder) for _, folder in sorted(score_folders.items())]
    parents = (dataset_digest, verdicts_digest, *digests)
    parents += (selection_digest,) if selection_digest is not None else ()
    spec = Spec("dataset", "curation.curate", settings, parents, CODE)
    return Draft(join(store, name, spec.digest), spec)


@dataclass(frozen=True)
class CurateWork:
    """Copies one shard's kept samples, bytes untouched; its item is a shard number."""

    url: str
    dataset_url: str
    verdicts_url: str
    selection_url: str | None = None

    def __call__(self, value: int, todo: Sequence[str]) -> dict[str, Part]:
        rows = read_table(rows_url(self.dataset_url, value))
        verdicts = self._verdicts(value, rows)
        kept = verdicts["kept"].to_pylist()
        samples = read_samples(self.dataset_url, value, rows.filter(verdicts["kept"]))
        with ShardWriter(self.url, value) as writer:
            for row, keep in zip(decide(rows, verdicts).to_pylist(), kept, strict=True):
                writer.add(row, self._image(row, samples) if keep else None)
        dropped = Counter(reason for reason in verdicts["reason"].to_pylist() if reason)
        files, name = tuple(writer.files), part_name(value)
        return {"": Part(name, files, rows.num_rows, sum(kept), dict(dropped))}

    def _image(self, row: Mapping[str, Any], samples: Iterator[Sample]) -> bytes:
        sample = next(samples, None)
        if sample is None or sample.row != row["row"]:
            raise SluiceError(
                f"{self.dataset_url}, shard {part_name(row['shard'])}: row {row['row']} is to be "
                "kept and has no image",
                "remove that version's folder and run again; the store rebuilds it",
            )
        return sample.image

    def _verdicts(self, shard: int, rows: pa.Table) -> pa.Table:
        """uid, kept and reason of each row; a selection drops what it left out, too."""
        verdicts = self._aligned(self.verdicts_url, shard, rows, ["uid", "kept", "reason"])
        if self.selection_url is None:
            return verdicts
        columns = ["uid", "selected", "reason"]
        selection = self._aligned(self.selection_url, shard, rows, columns)
        reason = pc.coalesce(verdicts["reason"], selection["reason"])
        return pa.table({"uid": rows["uid"], "kept": selection["selected"], "reason": reason})

    def _aligned(self, url: str, shard: int, rows: pa.Table, columns: list[str]) -> pa.Table:
        artifact_at(url)
        file = join(url, f"{part_name(shard)}.parquet")
        table = read_table(file, columns)
        if table["uid"].to_pylist() != rows["uid"].to_pylist():
            raise SluiceError(
                f"{file} is not about the rows of {rows_url(self.dataset_url, shard)}",
                "remove that folder and run again; the store rebuilds it",
            )
        return table


def decide(rows: pa.Table, verdicts: pa.Table) -> pa.Table:
    """`rows` with the state that `verdicts` (kept, reason) give them: ok, dropped, rejected.

    They are rows of another version, whose images are not where they were.
    """
    before = rows["status"].to_pylist()
    kept = verdicts["kept"].to_pylist()
    status = [
        old if old != "ok" else "ok" if keep else "dropped"
        for old, keep in zip(before, kept, strict=True)
    ]
    changed = {"status": pa.array(status, pa.string()), "reason": verdicts["reason"]}
    changed |= {name: pa.nulls(len(status), ROWS.field(name).type) for name in ("tar", "offset")}
    columns = [changed.get(name, rows[name]) for name in ROWS.names]
    return pa.table(columns, schema=ROWS)
