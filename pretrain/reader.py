"""The samples of a dataset version by their place in an endless shuffled order."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from infra.artifacts import Artifact
from infra.dataset import Dataset, index_id, read_samples
from infra.drawn import DrawnShard, is_drawn
from infra.errors import SluiceError
from pretrain.columns import ColumnsFile, find_folder
from pretrain.decoded import decode, squeezed
from pretrain.order import Order, Window
from pretrain.ranks import Ranks

READING = 4  # shards that are read at a time: a remote store answers each of them late


class Place(NamedTuple):
    """A sample by the number of its shard among those of its source, and its number there.

    window: the shards that are read together with it, and those that come after.
    """

    shard: int
    number: int
    window: Window


@dataclass(frozen=True)
class Found:
    """A sample as it is stored.

    id: its index id. image: its file, or what draws it. text: its own JSON, where that was asked
    for. columns: its row of each of the score columns that were asked for, by name, as far as its
    version has them.
    """

    id: int
    caption: str
    image: bytes | Callable[[], np.ndarray]
    text: str | None = None
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    def pixels(self, canvas: int) -> tuple[np.ndarray, tuple[int, int]]:
        """RGB uint8 [canvas, canvas, 3] and the original (height, width); raises ValueError."""
        if isinstance(self.image, bytes):
            return decode(self.image, canvas)
        drawn = self.image()
        return squeezed(drawn, canvas), drawn.shape[:2]


Columns = Mapping[str, ColumnsFile]


class _Drawn(Sequence[Found]):
    """The samples of a shard of a drawn version: each is made when it is asked for."""

    def __init__(self, shard: DrawnShard, texts: bool, columns: Columns) -> None:
        self._shard, self._texts, self._columns = shard, texts, columns

    def __len__(self) -> int:
        return self._shard.rows

    def __getitem__(self, row: Any) -> Any:  # one at a time
        told = self._shard.tell(row)
        return Found(
            index_id(self._shard.shard, row),
            told.caption,
            partial(self._shard.draw, row),
            told.meta if self._texts else None,
            {name: file[row] for name, file in self._columns.items()},
        )


class Reader:
    """Random access to the samples of a dataset version, a window of shards at a time.

    The shards of the next window are read, by threads, while samples of this one are taken. Of
    several processes (`ranks`) each reads those that it is likely to be dealt samples of.
    texts: read their own JSON, too. columns: score folders by name, see `pretrain.columns`.
    """

    def __init__(
        self,
        artifact: Artifact,
        shuffle: int,
        key: tuple[Any, ...],
        texts: bool = False,
        columns: Mapping[str, str] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.url = artifact.url
        self._ranks = ranks or Ranks()
        self._drawn = artifact if is_drawn(artifact) else None
        parts = [part for part in artifact.parts if part.kept]
        self._numbers = [int(part.name) for part in parts]
        if not parts:
            raise SluiceError(
                f"{artifact.url} has no samples to train on ({artifact.totals['rows']} rows, "
                "none kept)",
                "loosen the rules that dropped them, or take this source out of the mix",
            )
        self.order = Order([part.kept for part in parts], shuffle, key)
        self._shards: dict[int, Future[Sequence[Found]]] = {}
        self._pool = ThreadPoolExecutor(READING)
        self._start = -1  # of the latest window
        self._dataset = Dataset(artifact) if texts else None
        found = {name: find_folder(artifact, folder) for name, folder in (columns or {}).items()}
        self._columns = {name: url for name, url in found.items() if url is not None}

    def place(self, position: int) -> Place:
        """Where the sample at a position of the endless order lies; nothing is read."""
        return Place(*self.order[position], self.order.window)

    @property
    def columns(self) -> frozenset[str]:
        """The names of the score columns that this version has of those asked for."""
        return frozenset(self._columns)

    def at(self, place: Place) -> Found | None:
        """The sample there; None where its shard cannot be read.

        Shards of other windows than the latest and the one after it are let go.
        """
        if place.window.start > self._start:
            self._turn(place)
        read = self._begin(place.shard).result()
        return read[place.number] if read else None

    def _turn(self, place: Place) -> None:
        """Begin to read a window, with the shard of `place`, and then the one after it."""
        self._start, shards, after = place.window
        for shard in self._shards.keys() - {*shards, *after}:
            self._shards.pop(shard).cancel()
        self._begin(place.shard)
        for shard in [*self._own(shards), *self._own(after)]:
            self._begin(shard)

    def _begin(self, shard: int) -> "Future[Sequence[Found]]":
        """Have a shard read, unless it is there or about to be."""
        if shard not in self._shards:
            self._shards[shard] = self._pool.submit(self._read, shard)
        return self._shards[shard]

    def _own(self, window: Sequence[int]) -> list[int]:
        """The shards of a window that this process gets samples of, as `Ranks.owners` deals them.

        A batch has its share of every shard, and goes to the processes in the order of shards.
        """
        shards = sorted(window)
        ends = np.cumsum(self.order.counts[shards])
        low, high = (ends[-1] * (self._ranks.rank + more) / self._ranks.count for more in (0, 1))
        begins = ends - self.order.counts[shards]
        return [
            shard
            for shard, begin, end in zip(shards, begins, ends, strict=True)
            if begin < high and end > low
        ]

    def close(self) -> None:
        """Read nothing further ahead until `at` is called again; what was read stays."""
        self._start = -1
        for shard, read in list(self._shards.items()):
            if read.cancel():
                del self._shards[shard]

    def name(self, place: Place) -> str:
        """Of a sample that cannot be used: version and key, or shard where that is damaged."""
        version, read = self.url.rstrip("/").rsplit("/", 1)[-1], self.at(place)
        number = self._numbers[place.shard]
        return f"{version}:{number:05d}.tar" if read is None else f"{version}:{read.id:015d}"

    def _read(self, shard: int) -> Sequence[Found]:
        """The samples of a shard; none where it is damaged, or is not what its manifest says."""
        number = self._numbers[shard]
        if self._drawn:
            drawn = DrawnShard(self._drawn, number)
            return _Drawn(drawn, self._dataset is not None, self._files(number))
        try:
            samples = list(read_samples(self.url, number))
        except SluiceError:
            return []
        if len(samples) != int(self.order.counts[shard]):
            return []
        texts = self._dataset.rows(number, ["meta"])["meta"] if self._dataset else None
        files = self._files(number)
        return [
            Found(
                index_id(number, sample.row),
                sample.caption,
                sample.image,
                None if texts is None else texts[sample.row].as_py(),
                {name: file[sample.row] for name, file in files.items()},
            )
            for sample in samples
        ]

    def _files(self, number: int) -> Columns:
        return {name: ColumnsFile.read(url, number) for name, url in self._columns.items()}
