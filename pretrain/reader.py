"""The samples of a dataset version by their place in an endless shuffled order."""

from typing import Any, NamedTuple

from infra.artifacts import Artifact
from infra.dataset import Dataset, index_id, read_samples
from infra.errors import SluiceError
from infra.samples import Sample
from pretrain.order import Order


class Place(NamedTuple):
    """A sample by the number of its shard among those of its source, and its number there.

    window: the shards that are read together with it.
    """

    shard: int
    number: int
    window: frozenset[int]


class Reader:
    """Random access to the samples of a dataset version, a window of shards at a time.

    texts: read their own JSON, too.
    """

    def __init__(
        self, artifact: Artifact, shuffle: int, key: tuple[Any, ...], texts: bool = False
    ) -> None:
        self.url = artifact.url
        parts = [part for part in artifact.parts if part.kept]
        self._numbers = [int(part.name) for part in parts]
        if not parts:
            raise SluiceError(
                f"{artifact.url} has no samples to train on ({artifact.totals['rows']} rows, "
                "none kept)",
                "loosen the rules that dropped them, or take this source out of the mix",
            )
        self.order = Order([part.kept for part in parts], shuffle, key)
        self._shards: dict[int, list[tuple[Sample, str | None]]] = {}
        self._dataset = Dataset(artifact) if texts else None

    def place(self, position: int) -> Place:
        """Where the sample at a position of the endless order lies; nothing is read."""
        return Place(*self.order[position], self.order.window)

    def at(self, place: Place) -> tuple[int, Sample, str | None] | None:
        """The index id, the sample and its own JSON; None where its shard cannot be read.

        Shards of other windows are let go.
        """
        if place.shard not in self._shards:
            held = self._shards.items()
            self._shards = {shard: read for shard, read in held if shard in place.window}
            self._shards[place.shard] = self._read(place.shard)
        read = self._shards[place.shard]
        if not read:
            return None
        sample, text = read[place.number]
        return index_id(self._numbers[place.shard], sample.row), sample, text

    def name(self, place: Place) -> str:
        """Of a sample that cannot be used: version and key, or shard where that is damaged."""
        version, read = self.url.rstrip("/").rsplit("/", 1)[-1], self.at(place)
        number = self._numbers[place.shard]
        return f"{version}:{number:05d}.tar" if read is None else f"{version}:{read[0]:015d}"

    def _read(self, shard: int) -> list[tuple[Sample, str | None]]:
        """The samples of a shard; none where it is damaged, or is not what its manifest says."""
        number = self._numbers[shard]
        try:
            samples = list(read_samples(self.url, number))
        except SluiceError:
            return []
        if len(samples) != int(self.order.counts[shard]):
            return []
        if self._dataset is None:
            return [(sample, None) for sample in samples]
        texts = self._dataset.rows(number, ["meta"])["meta"]
        return [(sample, texts[sample.row].as_py()) for sample in samples]
