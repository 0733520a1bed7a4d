"""The training runs that have seen what is taken down, and how often; told before it goes."""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra import artifacts, filesystem
from infra.errors import SluiceError
from infra.filesystem import join
from pretrain.seen import seen, sources_of


def run_folders(store: str) -> list[str]:
    """The runs of a store, finished or not."""
    files = filesystem.list_files(join(store, "runs", "*", "*", "*"))
    return sorted({url.rpartition("/")[0] for url in files})


def runs_that_saw(
    store: str, versions: Collection[str], uids: Collection[str]
) -> list[dict[str, Any]]:
    """Of each run with one of the versions (digests) among its sources: how often it saw each uid.

    Those whose counts are not known say why: older runs, and runs that have not begun.
    """
    found: list[dict[str, Any]] = []
    for url in run_folders(store):
        name = url.removeprefix(store).strip("/")
        try:
            sources = sources_of(url)
        except SluiceError as error:
            sources, unknown = _parents(url), error.what
        else:
            unknown = ""
        if not {*sources} & {*versions}:
            continue
        entry: dict[str, Any] = {"run": name, "sources": sorted({*sources} & {*versions})}
        try:
            counts = {} if unknown else _counts(url, versions, uids)
        except SluiceError as error:
            counts, unknown = {}, error.what
        found.append(entry | ({"unknown": unknown} if unknown else {"seen": dict(counts)}))
    return found


def _parents(url: str) -> list[str]:
    artifact = artifacts.load(url)
    return [] if artifact is None else list(artifact.manifest["spec"]["parents"])


def _counts(url: str, versions: Collection[str], uids: Collection[str]) -> Mapping[str, int]:
    wanted, counts = pa.array(sorted(uids), pa.string()), Counter[str]()
    for table in seen(url):
        some = table.filter(pc.is_in(table["uid"], value_set=wanted))
        for row in some.filter(pc.field("times") > 0).to_pylist():
            if row["source"].partition("@")[2] in versions:
                counts[row["uid"]] += row["times"]
    return dict(sorted(counts.items()))
