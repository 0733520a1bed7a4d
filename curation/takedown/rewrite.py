"""The shards of a successor: rows without what went, images copied only where some have to go.

A touched shard gets a tar of its own, put together from ranges of bytes of the old ones. All other
tars are used where they are, and of a shard without a match even the rows are the same file.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.fetch.blocklists import TOLD
from curation.outcomes import TAKEN_DOWN
from infra import filesystem, samples
from infra.artifacts import Artifact, Part
from infra.dataset import (
    REPEATING,
    ROWS,
    index_id,
    of_shard,
    part_name,
    read_table,
    write_table,
)  # fmt: skip
from infra.filesystem import FilePart, join, write_whole
from infra.moving import Places, copy_samples, take_over
from infra.samples import Tar
from infra.shards import TarWriter
from infra.stage import Item

_OWN = re.compile(r"[^/]+/[0-9a-f]{16}/shards/[0-9]+\.tar")

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def is_own(store: str, tar: str) -> bool:
    """Whether the tar at this URL belongs to a version of the store, and not to a user."""
    prefix = f"{store.rstrip('/')}/"
    return tar.startswith(prefix) and _OWN.fullmatch(tar.removeprefix(prefix)) is not None


def shards_in(version: Artifact, tars: Collection[str]) -> dict[int, set[str]]:
    """The shards of a version that read some of these tars, and which."""
    found: dict[int, set[str]] = {}
    if not tars:
        return found
    own = version.path("shards", "")
    for tar in tars:
        if tar.startswith(own):
            found[int(tar[len(own) :].partition(".")[0])] = {tar}
    lists = filesystem.list_files(version.path("tars", "*.json"))
    names = [url.rpartition("/")[2].removesuffix(".json") for url in lists]
    for name, told in zip(names, samples.read_lists(lists), strict=True):
        read = {samples.locate(version.url, tar.url) for tar in told} & {*tars}
        if read:
            found[int(name)] = read
    return found


Home = tuple[str, int]  # a shard: URL of its version, number


@dataclass(frozen=True)
class Shard:
    """A shard to be: its old part and its rows that go.

    homes: of the tars it reads those, by URL, that hold an image that goes, and the shard whose
    new tar takes in the other images: this one, or one of a version made before it.
    """

    part: Part
    gone: tuple[int, ...]
    homes: Mapping[str, Home]


def rewrite_items(
    version: Artifact, gone: Rows, touched: Mapping[int, Collection[str]], homes: Mapping[str, Home]
) -> list[Item]:
    """One item for each shard. gone: ids, ascending. touched: by shard, such tars that it reads."""
    items: list[Item] = []
    for part in version.parts:
        shard = int(part.name)
        rows = tuple((gone[of_shard(gone, shard)] - index_id(shard, 0)).tolist())
        own = {tar: homes[tar] for tar in sorted(touched.get(shard, ()))}
        items.append(Item(part.name, Shard(part, rows, own)))
    return items


@dataclass(frozen=True)
class RewriteWork:
    """Writes a shard of the version at `url` from that of the version at `old`."""

    url: str
    old: str

    def __call__(self, value: Shard, todo: Sequence[str]) -> dict[str, Part]:
        part = value.part
        if value.gone or value.homes:
            part = self._touched(value)
        else:
            (rows,) = [file for file in part.files if file.path.startswith("rows/")]
            samples.write_tars(self.url, part.name, self._tars(part))
            files = (take_over(self.old, self.url, rows),)
            part = Part(part.name, files, part.rows, part.kept, part.dropped, part.extra)
        return dict.fromkeys(todo, part)

    def _tars(self, part: Part) -> list[Tar]:
        """The tars of a shard as the new version names them; none where it has no image."""
        told = samples.read_tars(self.old, part.name)
        if told == [samples.own_tar(part.name)] and told[0].url not in {f.path for f in part.files}:
            return []
        return [samples.seen_from(self.url, self.old, tar) for tar in told]

    def _touched(self, value: Shard) -> Part:
        part, name = value.part, value.part.name
        rows = read_table(join(self.old, "rows", f"{name}.parquet"))
        gone = np.zeros(rows.num_rows, np.bool_)
        gone[list(value.gone)] = True
        rows = taken_down(rows, gone)
        tars = self._tars(part)
        rows, tars, written = self._moved(value, rows, tars)
        samples.write_tars(self.url, name, tars)
        files = (*written, write_table(self.url, f"rows/{name}.parquet", rows, REPEATING))
        counts = pc.value_counts(rows["reason"].drop_null()).to_pylist()
        dropped = {each["values"]: each["counts"] for each in counts}
        kept = rows.num_rows - sum(dropped.values())
        return Part(name, files, rows.num_rows, kept, dropped, part.extra)

    def _moved(
        self, value: Shard, rows: pa.Table, tars: Sequence[Tar]
    ) -> tuple[pa.Table, list[Tar], list[FilePart]]:
        """The rows with their images out of condemned tars, the tars they lie in, what was written.

        Those of a shard's tars that no row needs any more are named no longer.
        """
        name = value.part.name
        number = rows["tar"].to_numpy(zero_copy_only=False)
        number = np.where(np.isnan(number), -1, number).astype(np.int64)  # float where some is null
        used = np.unique(number[number >= 0]).tolist()
        places = [samples.locate(self.url, tar.url) for tar in tars]
        tars, offsets = list(tars), np.array(rows["offset"].fill_null(-1).to_numpy(), np.int64)
        moving: list[int] = []
        for n in used:
            if places[n] in value.homes:
                found = self._found(rows, number == n, *value.homes[places[n]])
                if found is None:
                    moving.append(n)
                else:
                    tars[n], offsets[number == n] = found
        staying = [n for n in used if n not in moving]
        files: list[FilePart] = []
        if moving:
            offsets, file = self._copied(
                name, rows, number, offsets, [(n, places[n]) for n in moving]
            )
            files.append(file)
        first = 1 if moving else 0
        new = np.full(len(tars) + 1, -1, np.int64)  # the last is for rows without an image
        new[moving], new[staying] = 0, np.arange(first, first + len(staying))
        named = [samples.own_tar(name)] * first + [tars[n] for n in staying]
        rows = _placed(rows, new[number], offsets)
        return rows, named, files

    def _found(
        self, rows: pa.Table, chosen: Mask, home: str, shard: int
    ) -> tuple[Tar, Rows] | None:
        """The tar and offsets of chosen rows in the shard of another new version that has them."""
        if home == self.url:
            return None
        name = part_name(shard)
        own, told = samples.own_tar(name), samples.read_tars(home, name)
        there = read_table(join(home, "rows", f"{name}.parquet"), ["key", "tar", "offset"])
        if own not in told:
            return None
        there = there.filter(pc.equal(there["tar"], told.index(own)))
        places = dict(zip(there["key"].to_pylist(), there["offset"].to_pylist(), strict=True))
        keys = rows["key"].filter(pa.array(chosen)).to_pylist()
        if not places.keys() >= {*keys}:
            return None
        offsets = np.array([places[key] for key in keys], np.int64)
        return samples.seen_from(self.url, home, own), offsets

    def _copied(
        self,
        name: str,
        rows: pa.Table,
        number: Rows,
        offsets: Rows,
        moving: Sequence[tuple[int, str]],
    ) -> tuple[Rows, FilePart]:
        """The offset of every row's image once those in the moving tars are in the shard's own."""
        keys, sizes = rows["key"].combine_chunks(), rows["bytes"].fill_null(0).to_numpy()
        own = samples.own_tar(name).url
        with write_whole(self.url, own) as file:
            tar = TarWriter(file)  # type: ignore[arg-type]
            for n, url in moving:
                chosen = np.flatnonzero(number == n)
                chosen = chosen[np.argsort(offsets[chosen], kind="stable")]
                places = Places(keys.take(pa.array(chosen)), offsets[chosen], sizes[chosen])
                offsets[chosen] = copy_samples(url, places, tar, file.bytes)
            tar.close()
        return offsets, file.part(own)


def taken_down(rows: pa.Table, gone: Mask) -> pa.Table:
    """The rows (ROWS) as `blocked_row` makes those that go; the others as they are."""
    mask = pa.array(gone)
    said: Mapping[str, str] = {"status": "rejected", "reason": TAKEN_DOWN}
    columns = [
        rows[name]
        if name in TOLD
        else pc.if_else(mask, pa.scalar(said.get(name), rows[name].type), rows[name])
        for name in ROWS.names
    ]
    return pa.table(columns, schema=ROWS)


def _placed(rows: pa.Table, tars: Rows, offsets: Rows) -> pa.Table:
    """The rows with tar numbers (-1: null) and offsets."""
    absent = tars < 0
    new = {"tar": pa.array(tars.astype(np.int8), mask=absent),
           "offset": pa.array(offsets, mask=absent)}  # fmt: skip
    return pa.table([new.get(name, rows[name]) for name in ROWS.names], schema=ROWS)


def taken_parts(version: Artifact) -> dict[str, int]:
    """How many rows of each shard are taken down."""
    return {
        part_name(int(part.name)): part.dropped[TAKEN_DOWN]
        for part in version.parts
        if part.dropped.get(TAKEN_DOWN)
    }


def all_tars(version: Artifact, shards: Collection[str] | None = None) -> set[str]:
    """The URLs of tars that samples of a version lie in; its own only where it names them.

    shards: of these alone, by the names of their parts.
    """
    lists = filesystem.list_files(version.path("tars", "*.json"))
    if shards is not None:
        lists = [url for url in lists if url.rpartition("/")[2].removesuffix(".json") in shards]
    named = samples.read_lists(lists)
    return {samples.locate(version.url, tar.url) for told in named for tar in told}
