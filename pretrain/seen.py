"""Which samples a run has seen, and how often: of a finished one, or up to its checkpoint."""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra import artifacts, filesystem
from infra.dataset import Dataset, index_id
from infra.drawn import order_key
from infra.errors import SluiceError
from infra.filesystem import join
from infra.withdrawn import WITHDRAWN_FILE, read_withdrawal
from pretrain.data import KNOWN, open_source
from pretrain.order import Order

STREAM = "stream.json"  # of a finished run: where its samples ended
SEEN = pa.schema(
    [("source", pa.string()), ("id", pa.int64()), ("uid", pa.string()), ("times", pa.int64())]
)


def sources_of(url: str) -> list[str]:
    """The digests of the versions that the run at `url` learns from; SluiceError as for `seen`."""
    return [str(digest) for digest in _told(url)["sources"]]


def seen(url: str) -> Iterator[pa.Table]:
    """Rows of SEEN for each shard of each source of the run at `url`; times is 0 for unseen ones.

    Sources are looked for in the run's own store, STORE/runs/NAME/DIGEST. SluiceError for a run
    that has seen nothing yet, whose sources are gone, or that skipped more than it could name.
    """
    told = _told(url)
    store = url.rstrip("/").rsplit("/", 3)[0]
    if len(told["state"]["bad"]) >= KNOWN:
        raise SluiceError(
            f"{url} skipped more than the {KNOWN:,} samples whose names it keeps",
            "clean its sources first: `prefect run ingest` tells which images do not decode",
        )
    for number, digest in enumerate(told["sources"]):
        found = filesystem.list_files(join(store, "*", digest, artifacts.MANIFEST))
        if not found:
            _refuse_withdrawn(store, url, digest)
            raise SluiceError(
                f"the version {digest} that {url} learnt from is not in {store}",
                "bring it back: without it nobody can tell which samples these were",
            )
        source = open_source(found[0].rsplit("/", 1)[0])
        position = int(told["state"]["positions"][number])
        key = (told["seed"], "data", order_key(source))
        yield from _of_source(source, position, told["shuffle"], key, told["state"]["bad"])


def _refuse_withdrawn(store: str, url: str, digest: str) -> None:
    """What a run saw of a version that was withdrawn, the takedown's record says."""
    notices = filesystem.list_files(join(store, "*", digest, WITHDRAWN_FILE))
    notice = read_withdrawal(notices[0].rpartition("/")[0]) if notices else None
    if notice is not None:
        raise SluiceError(
            f"the version {digest} that {url} learnt from was withdrawn by the takedown "
            f"{notice.takedown}",
            f"read {join(store, 'takedowns', notice.takedown, 'record.json')}: it lists what this "
            "run had seen of what was taken down",
        )


def _told(url: str) -> Mapping[str, Any]:
    """Seed, shuffle, digests of the sources and the stream's state."""
    if filesystem.exists(join(url, STREAM)):
        return json.loads(filesystem.read_bytes(join(url, STREAM)))
    from pretrain.checkpoint import read_saved  # PyTorch

    saved = read_saved(url)
    if saved is None:
        raise SluiceError(
            f"there is neither {STREAM} nor a checkpoint at {url}",
            "name the folder of a run, STORE/runs/NAME/DIGEST; older runs did not keep it",
        )
    return {**saved.order, "state": saved.stream}


def _of_source(
    source: artifacts.Artifact, position: int, shuffle: int, key: tuple[Any, ...], bad: list[str]
) -> Iterator[pa.Table]:
    dataset, parts = Dataset(source), [part for part in source.parts if part.kept]
    times = order_times(Order([part.kept for part in parts], shuffle, key), position)
    version, dataset_name = source.url.rstrip("/").rsplit("/", 2)[::-1][:2]
    skipped = {name.split(":", 1)[1] for name in bad if name.startswith(f"{version}:")}
    for part, counts in zip(parts, times, strict=True):
        shard = int(part.name)
        rows = dataset.rows(shard, ["uid", "row", "status"]).filter(pc.field("status") == "ok")
        ids = index_id(shard, 0) + rows["row"].to_numpy().astype(np.int64)
        gone = np.array([f"{identifier:015d}" in skipped for identifier in ids.tolist()], bool)
        counts = np.where(gone | (f"{shard:05d}.tar" in skipped), 0, counts)
        name = pa.repeat(f"{dataset_name}@{version}", len(rows))
        yield pa.table([name, ids, rows["uid"], counts], schema=SEEN)


def order_times(order: Order, position: int) -> list[npt.NDArray[np.int64]]:
    """How often each sample of each shard comes before a position of the endless order."""
    epochs, rest = divmod(position, order.total)
    times = [np.full(count, epochs, np.int64) for count in order.counts.tolist()]
    for entries in order.windows(epochs):
        for shard, number in entries[:rest].tolist():
            times[shard][number] += 1
        rest -= len(entries)
        if rest <= 0:
            break
    return times
