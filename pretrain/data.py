"""Samples for training: streamed from the tars of dataset versions in an order that is a number.

The n-th sample of a source is a pure function of (seed, source, n), its `Order`. So a stream's
whole state is a cursor per source, and stopping at any step and going on gives the same samples.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from infra import artifacts
from infra.artifacts import Artifact
from infra.drawn import order_key
from infra.errors import SluiceError
from pretrain import meta
from pretrain.columns import check_found
from pretrain.declare import Counts
from pretrain.decoded import Decoded
from pretrain.mix import Mix, Weight, counts, shares
from pretrain.ranks import Ranks
from pretrain.reader import Found, Place, Reader

KNOWN = 10_000  # samples and shards that cannot be used, by name; beyond, they are only counted
PIECES = 4  # of a batch for each thread that decodes: handing one over costs a tenth of an image
CLOSING = 10.0  # seconds a thread may take to end
T = TypeVar("T")
Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """A dataset version and its share of the samples seen, relative to the other sources.

    weight: a number, or knots where it changes over the run, see `pretrain.mix`.
    name: by which a run's settings may call it.
    """

    url: str
    weight: Weight = 1.0
    name: str = ""

    def names(self, digest: str) -> frozenset[str]:
        """All it goes by: the digest of its version, and its name, else as its URL ends."""
        ends = {self.name} if self.name else {*self.url.rstrip("/").rsplit("/", 2)[-2:]}
        return frozenset({digest, *ends})


@dataclass(frozen=True)
class Batch:
    """Decoded samples.

    images: uint8 [batch, canvas, canvas, 3], RGB, the whole image squeezed into a square.
    sizes: float32 [batch, 2], height and width of the original in pixels.
    ids: int64 [batch], index ids; sources: int64 [batch], which source each came from.
    places: int64 [batch], position of each sample in the whole run.
    state: where the stream stands after this batch.
    texts: the samples' own JSON as it is stored, where the objective needs it; else empty.
    columns: each one's rows of the score columns that the objective reads, by name; else empty.
    strength: share of their strength at which colours are changed; less than 1 in a curriculum.
    names: all that each source goes by, by its number in `sources`.
    Of several processes, dealt: [processes, sources], samples of the whole batch that are
    each one's; own: bool [batch], those that are this one's. See `Stream`.
    """

    images: np.ndarray
    sizes: np.ndarray
    captions: list[str]
    ids: np.ndarray
    sources: np.ndarray
    places: np.ndarray
    state: Mapping[str, Any]
    texts: Sequence[str | None] = ()
    columns: Sequence[Fields] = ()
    strength: float = 1.0
    names: Sequence[frozenset[str]] = ()
    dealt: Counts | None = None
    own: np.ndarray | None = None

    def select(self, rows: np.ndarray) -> "Batch":
        """Those samples alone; rows: int64, their numbers in this batch."""
        return replace(
            self,
            images=self.images[rows],
            sizes=self.sizes[rows],
            captions=[self.captions[row] for row in rows],
            ids=self.ids[rows],
            sources=self.sources[rows],
            places=self.places[rows],
            texts=[self.texts[row] for row in rows] if self.texts else (),
            columns=[self.columns[row] for row in rows] if self.columns else (),
            own=None if self.own is None else self.own[rows],
        )

    @cached_property
    def meta(self) -> list[dict[str, Any]]:
        """The fields of each sample: of its own JSON, and its rows of score columns by their name.

        See `pretrain.meta.label` for classes.
        """
        rows = self.columns or [{}] * len(self.texts)
        return [{**meta.parse(text), **row} for text, row in zip(self.texts, rows, strict=True)]


@dataclass
class _Cursor:
    """Where the stream stands: per source, the next position and the samples delivered."""

    positions: list[int]
    taken: list[int]
    skipped: list[int]
    bad: list[str] = field(default_factory=list)

    def freeze(self) -> dict[str, Any]:
        return {
            "positions": list(self.positions),
            "taken": list(self.taken),
            "skipped": list(self.skipped),
            "bad": list(self.bad),
        }


class _Drawn(NamedTuple):
    """A sample of the mix: which source, its position in that one's order, and where that is."""

    source: int
    position: int
    place: Place


class _Read(NamedTuple):
    """A sample that was read. value: pixels and size, or None where it cannot be decoded."""

    id: int
    caption: str
    text: str | None
    columns: Fields
    value: Any


UNREAD = _Read(-1, "", None, {}, None)


class Stream:
    """Batches of a mix of sources, from any state on.

    Sources are interleaved by sample mass: each next sample comes from the source that is
    furthest behind its share, which may change over the `samples` of the run. A sample that cannot
    be decoded, or whose shard cannot be read, is skipped, counted and named.
    So is one of whose fields (`Batch.meta`) `unusable` says why it is of no use.
    columns: score folders NAME-DIGEST of the sources by the name the objective knows.
    Of several processes each reads and decodes its own part of every batch, and all of them
    have the same state: it tells nothing of how many they were. `common` says, by `Batch.dealt` and
    the sources' names, of which sources each process is to have all samples of a batch.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        batch: int,
        canvas: int,
        shuffle: int,
        seed: int,
        cache_mib: int,
        threads: int,
        samples: int = 0,
        texts: bool = False,
        columns: Mapping[str, str] | None = None,
        ranks: Ranks | None = None,
        unusable: Callable[[Mapping[str, Any], Collection[str]], str | None] | None = None,
        common: Callable[[Counts, Sequence[Collection[str]]], Sequence[bool]] | None = None,
    ) -> None:
        self._ranks = ranks or Ranks()
        self._ranks.check(batch)
        found = [(open_source(source.url), source) for source in sources]
        made = shares([source.weight for source in sources])
        used = sorted(
            (
                (artifact, source, share)
                for (artifact, source), share in zip(found, made, strict=True)
                if counts(source.weight)
            ),
            key=lambda each: (order_key(each[0]), each[0].digest),
        )
        self.mix = Mix([share for _, _, share in used], samples)
        self.names = [source.names(artifact.digest) for artifact, source, _ in used]
        self.digests = [artifact.digest for artifact, _, _ in used]
        self._readers = [
            Reader(
                artifact, shuffle, (seed, "data", order_key(artifact)), texts, columns, self._ranks
            )
            for artifact, _, _ in used
        ]
        self._has_columns = bool(columns)
        check_found(columns or {}, [reader.columns for reader in self._readers])
        self.order = {"seed": seed, "shuffle": shuffle, "sources": self.digests}
        self._batch = batch
        self._has_texts = texts
        self._unusable, self._common = unusable, common
        self._threads = threads
        self._decoded = Decoded(cache_mib, canvas)

    def start(self) -> dict[str, Any]:
        zeros = [0] * len(self._readers)
        return _Cursor(zeros[:], zeros[:], zeros[:]).freeze()

    def batches(self, state: Mapping[str, Any]) -> Iterator[Batch]:
        """The batches that follow `state`, without end."""
        cursor = _Cursor(**{name: list(value) for name, value in state.items()})
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self._threads))
            for reader in self._readers:
                stack.callback(reader.close)
            while True:
                yield self._next(cursor, pool)

    def _next(self, cursor: _Cursor, pool: ThreadPoolExecutor) -> Batch:
        first = sum(cursor.taken)
        good: list[_Drawn] = []
        read: dict[_Drawn, _Read] = {}
        while len(good) < self._batch:
            drawn = self._draw(cursor, self._batch - len(good))
            read |= self._read(self._own(drawn), pool)
            fails = [each in read and read[each].value is None for each in drawn]
            for each, failed in zip(drawn, self._ranks.any(np.array(fails)), strict=True):
                if failed:
                    self._skip(cursor, each)
                else:
                    good.append(each)
        owners = self._owners(good)  # of other samples than were read, where one has failed
        kinds = np.array([each.source for each in good])
        dealt: Counts = [
            np.bincount(kinds[owners == process], minlength=len(self._readers)).tolist()
            for process in range(self._ranks.count)
        ]
        common = self._common(dealt, self.names) if self._common else [False] * len(self._readers)
        own = owners == self._ranks.rank
        here = [number for number, each in enumerate(good) if own[number] or common[each.source]]
        drawn = [good[number] for number in here]
        read |= self._read([each for each in drawn if each not in read], pool)
        found = self._batched(
            [read[each] for each in drawn], drawn, [first + number for number in here], cursor
        )
        return replace(found, dealt=dealt, own=own[here]) if self._ranks.count > 1 else found

    def _owners(self, drawn: Sequence[_Drawn]) -> np.ndarray:
        """The process that each is dealt to."""
        return self._ranks.owners([(each.source, each.place.shard) for each in drawn])

    def _own(self, drawn: Sequence[_Drawn]) -> list[_Drawn]:
        """Those that this process has to read, in their order."""
        own = self._owners(drawn) == self._ranks.rank
        return [each for each, is_own in zip(drawn, own, strict=True) if is_own]

    def _read(self, drawn: Sequence[_Drawn], pool: ThreadPoolExecutor) -> dict[_Drawn, _Read]:
        read: dict[_Drawn, _Read] = {}
        found: list[tuple[_Drawn, Found]] = []
        for each in drawn:
            sample = self._readers[each.source].at(each.place)
            if sample is None:
                read[each] = UNREAD
            else:
                found.append((each, sample))
        size = -(-len(found) // (PIECES * self._threads))
        pieces = [found[start : start + size] for start in range(0, len(found), size or 1)]
        values = chain.from_iterable(pool.map(self._pixels, pieces))
        for (each, sample), value in zip(found, values, strict=True):
            self._decoded.keep((each.source, sample.id), value)
            value = value if self._reason(each, sample) is None else None
            read[each] = _Read(sample.id, sample.caption, sample.text, sample.columns, value)
        return read

    def _pixels(self, found: Sequence[tuple[_Drawn, Found]]) -> list[Any]:
        """Of each its pixels and size, or None; in one thread."""
        return [
            self._decoded.get((each.source, sample.id), sample.pixels) for each, sample in found
        ]

    def _reason(self, drawn: _Drawn, sample: Found) -> str | None:
        """Why the objective has no use for a sample; None where it has."""
        if self._unusable is None:
            return None
        fields = {**meta.parse(sample.text), **sample.columns}
        return self._unusable(fields, self.names[drawn.source])

    def _batched(
        self, read: Sequence[_Read], own: Sequence[_Drawn], places: Sequence[int], cursor: _Cursor
    ) -> Batch:
        return Batch(
            images=np.stack([each.value[0] for each in read]),
            sizes=np.asarray([each.value[1] for each in read], dtype=np.float32),
            captions=[each.caption for each in read],
            ids=np.asarray([each.id for each in read], dtype=np.int64),
            sources=np.asarray([each.source for each in own], dtype=np.int64),
            places=np.asarray(places, dtype=np.int64),
            state=cursor.freeze(),
            texts=[each.text for each in read] if self._has_texts else (),
            columns=[each.columns for each in read] if self._has_columns else (),
            names=self.names,
        )

    def _draw(self, cursor: _Cursor, count: int) -> list[_Drawn]:
        """The next samples by the mix; a skip gives its source's place in the mix back."""
        plan: list[_Drawn] = []
        for _ in range(count):
            due = self.mix.due(sum(cursor.taken) + 1)
            behind = [count - taken for count, taken in zip(due, cursor.taken, strict=True)]
            source = behind.index(max(behind))
            position = cursor.positions[source]
            plan.append(_Drawn(source, position, self._readers[source].place(position)))
            cursor.positions[source] += 1
            cursor.taken[source] += 1
        return plan

    def _skip(self, cursor: _Cursor, drawn: _Drawn) -> None:
        source, reader = drawn.source, self._readers[drawn.source]
        sample = reader.at(drawn.place)
        reason = self._reason(drawn, sample) if sample else None
        cursor.taken[source] -= 1
        cursor.skipped[source] += 1
        name = reader.name(drawn.place)
        if len(cursor.bad) < KNOWN and name not in cursor.bad:
            cursor.bad.append(name)
        if cursor.taken[source] <= 0 and cursor.skipped[source] >= reader.order.total:
            raise SluiceError(
                f"no sample of {reader.url} can be {'used' if reason else 'decoded'}, the first "
                f"being {name}{f' ({reason})' if reason else ''}",
                "take this source out of the mix, or ingest it again",
            )


def open_source(url: str) -> Artifact:
    """The dataset version at `url`, or a SluiceError."""
    artifact = artifacts.load(url)
    if artifact is None:
        raise SluiceError(
            f"there is no dataset version at {url}", "curate or ingest it first, then train"
        )
    return artifact


class Ahead(Generic[T]):
    """An iterator's items, made by a thread up to `ahead` items before their use.

    take: what the one who asks for an item does with it first.
    """

    def __init__(
        self, items: Iterator[Any], ahead: int, take: Callable[[Any], T] | None = None
    ) -> None:
        self._take = take
        self._queue: queue.Queue[Any] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(items,), daemon=True)
        self._thread.start()

    def _fill(self, items: Iterator[Any]) -> None:
        try:
            for item in items:
                if not self._put(item):
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def next(
        self, patience: float | None = None, late: Callable[[float, bool], None] | None = None
    ) -> T:
        """The next item, however long it takes.

        late: called every `patience` seconds meanwhile, with the seconds waited, and whether the
        thread lives. SluiceError where it has died without a word.
        """
        begin = time.monotonic()
        while True:
            try:
                item = self._queue.get(timeout=patience)
                break
            except queue.Empty:
                alive = self._thread.is_alive()
                if late:
                    late(time.monotonic() - begin, alive)
                if not alive and self._queue.empty():
                    raise SluiceError(
                        "the thread that makes batches has died",
                        "start the run again: it goes on from its last checkpoint",
                    ) from None
        if isinstance(item, BaseException):
            raise item
        return self._take(item) if self._take else item

    def close(self) -> None:
        """End the thread; one that waits for another process, which has failed, is left behind."""
        self._stop.set()
        self._thread.join(CLOSING)
