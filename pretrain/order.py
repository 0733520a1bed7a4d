"""The order in which the samples of a dataset version are seen: a function of a number.

Epochs permute the shards, and windows of consecutive shards permute their samples.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from infra.digests import generator


class Window(NamedTuple):
    """Shards whose samples are shuffled among each other.

    start: the first position of it in the endless order. after: the shards of the next one.
    """

    start: int
    shards: tuple[int, ...]
    after: tuple[int, ...]


class Order:
    """The endless shuffled order of one source: position -> (shard, sample of the shard).

    counts: samples of each shard. shuffle: a window closes once it holds so many samples.
    Each epoch visits every sample once.
    """

    def __init__(self, counts: Sequence[int], shuffle: int, key: tuple[Any, ...]) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.total = int(self.counts.sum())
        self._shuffle = shuffle
        self._key = key
        self._epoch = -1
        self._windows: list[tuple[int, ...]] = []  # the shards of each
        self._starts: list[int] = []  # the first position of each
        self._entries = np.empty((0, 2), dtype=np.int64)
        self.window = Window(-1, (), ())  # in which the last one lies

    def _cut(self, epoch: int) -> list[tuple[int, ...]]:
        """The shards of each window of an epoch."""
        shards = generator(*self._key, "shards", epoch).permutation(len(self.counts))
        windows: list[list[int]] = []
        filled = self._shuffle
        for shard in shards.tolist():
            if filled >= self._shuffle:
                windows.append([])
                filled = 0
            windows[-1].append(shard)
            filled += int(self.counts[shard])
        return [tuple(window) for window in windows]

    def _plan(self, epoch: int) -> None:
        self._windows = self._cut(epoch)
        sizes = [int(self.counts[list(window)].sum()) for window in self._windows]
        self._starts = [0, *np.cumsum(sizes[:-1]).tolist()]
        self._epoch = epoch

    def _open(self, window: int) -> None:
        shards = np.asarray(self._windows[window])
        counts = self.counts[shards]
        ends = np.cumsum(counts)
        inside = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        entries = np.stack([np.repeat(shards, counts), inside], axis=1)
        shuffled = generator(*self._key, "window", self._epoch, window).permutation(len(entries))
        self._entries = entries[shuffled]
        last = window + 1 == len(self._windows)
        after = self._cut(self._epoch + 1)[0] if last else self._windows[window + 1]
        start = self._epoch * self.total + self._starts[window]
        self.window = Window(start, self._windows[window], after)

    def windows(self, epoch: int) -> Iterator[np.ndarray]:
        """(shard, sample) [samples, 2] of each window of an epoch, in its order."""
        self._plan(epoch)
        for window in range(len(self._windows)):
            self._open(window)
            yield self._entries

    def __getitem__(self, position: int) -> tuple[int, int]:
        if not 0 <= position - self.window.start < len(self._entries):
            epoch, inside = divmod(position, self.total)
            if epoch != self._epoch:
                self._plan(epoch)
            self._open(int(np.searchsorted(self._starts, inside, side="right")) - 1)
        shard, index = self._entries[position - self.window.start].tolist()
        return shard, index
