"""Samples for training: streamed from the tars of dataset versions in an order that is a number.

The n-th sample of a source is a pure function of (seed, source, n), its `Order`. So a stream's
whole state is a cursor per source, and stopping at any step and going on gives the same samples.
"""

import io
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from infra import artifacts
from infra.artifacts import Artifact
from infra.dataset import Dataset, index_id, read_samples
from infra.errors import SluiceError
from infra.samples import Sample
from pretrain import meta
from pretrain.order import Order

NAMED = 5  # undecodable samples that are named, not only counted
PIXEL_LIMIT = 2**26  # a larger image is refused before it is decoded
FORMATS = ("JPEG", "PNG", "WEBP")
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A dataset version and its share of the samples seen, relative to the other sources."""

    url: str
    weight: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Decoded samples.

    images: uint8 [batch, canvas, canvas, 3], RGB, the whole image squeezed into a square.
    sizes: float32 [batch, 2], height and width of the original in pixels.
    ids: int64 [batch], index ids; sources: int64 [batch], which source each came from.
    places: int64 [batch], position of each sample in the whole run.
    state: where the stream stands after this batch.
    texts: the samples' own JSON as it is stored, where the objective needs it; else empty.
    """

    images: np.ndarray
    sizes: np.ndarray
    captions: list[str]
    ids: np.ndarray
    sources: np.ndarray
    places: np.ndarray
    state: Mapping[str, Any]
    texts: Sequence[str | None] = ()

    @cached_property
    def meta(self) -> list[dict[str, Any]]:
        """The fields of each sample's own JSON; see `pretrain.meta.label` for classes."""
        return [meta.parse(text) for text in self.texts]


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

    def at(self, position: int) -> tuple[int, Sample, str | None]:
        """The index id, the sample and its own JSON at a position of the endless order."""
        shard, index = self.order[position]
        if shard not in self._shards:
            window = self.order.window_shards
            self._shards = {key: held for key, held in self._shards.items() if key in window}
            self._shards[shard] = self._read(shard)
        sample, text = self._shards[shard][index]
        return index_id(self._numbers[shard], sample.row), sample, text

    def _read(self, shard: int) -> list[tuple[Sample, str | None]]:
        samples = list(read_samples(self.url, self._numbers[shard]))
        expected = int(self.order.counts[shard])
        if len(samples) != expected:
            raise SluiceError(
                f"shard {self._numbers[shard]} of {self.url} holds {len(samples)} samples, its "
                f"manifest says {expected}",
                "remove that version's folder and run again; the store rebuilds it",
            )
        if self._dataset is None:
            return [(sample, None) for sample in samples]
        texts = self._dataset.rows(self._numbers[shard], ["meta"])["meta"]
        return [(sample, texts[sample.row].as_py()) for sample in samples]


def decode(data: bytes, canvas: int) -> tuple[np.ndarray, tuple[int, int]]:
    """RGB uint8 [canvas, canvas, 3] and the original (height, width); raises ValueError."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if not 0 < width * height <= PIXEL_LIMIT:
                raise ValueError(f"{width} x {height} pixels")
            image.draft("RGB", (canvas, canvas))  # JPEG: decode at a reduced scale
            small = image.convert("RGB").resize((canvas, canvas), Image.Resampling.BICUBIC)
            return np.asarray(small), (height, width)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


class _Decoded:
    """Decoded samples kept between epochs, the least recently used leaving first."""

    def __init__(self, mib: int, canvas: int) -> None:
        self._room = mib * 2**20 // (canvas * canvas * 3)
        self._canvas = canvas
        self._held: OrderedDict[tuple[int, int], Any] = OrderedDict()

    def get(self, key: tuple[int, int], data: bytes) -> Any:
        """(pixels, size), or None where the bytes cannot be decoded."""
        found = self._held.get(key, self)
        if found is self:
            try:
                found = decode(data, self._canvas)
            except ValueError:
                found = None
        return found

    def keep(self, key: tuple[int, int], value: Any) -> None:
        self._held[key] = value
        self._held.move_to_end(key)
        while len(self._held) > self._room:
            self._held.popitem(last=False)


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
    """The next sample of the mix: which source, its index id there, and its own JSON."""

    source: int
    id: int
    sample: Sample
    text: str | None


class Stream:
    """Batches of a mix of sources, from any state on.

    Sources are interleaved by sample mass: each next sample comes from the source that is
    furthest behind its share. A sample that cannot be decoded is skipped, counted and named.
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
        texts: bool = False,
    ) -> None:
        found = [(open_source(source.url), source.weight) for source in sources]
        total = sum(weight for _, weight in found)
        if not found or total <= 0 or min(weight for _, weight in found) < 0:
            raise SluiceError(
                f"the mix sums to nothing: shares {[weight for _, weight in found]}",
                "give at least one source, no negative share, and a share above 0",
            )
        used = sorted(
            ((artifact, weight / total) for artifact, weight in found if weight > 0),
            key=lambda pair: pair[0].digest,
        )
        self.shares = [share for _, share in used]
        self.digests = [artifact.digest for artifact, _ in used]
        self._readers = [
            Reader(artifact, shuffle, (seed, "data", artifact.digest), texts)
            for artifact, _ in used
        ]
        self._batch = batch
        self._has_texts = texts
        self._threads = threads
        self._decoded = _Decoded(cache_mib, canvas)

    def start(self) -> dict[str, Any]:
        zeros = [0] * len(self._readers)
        return _Cursor(zeros[:], zeros[:], zeros[:]).freeze()

    def batches(self, state: Mapping[str, Any]) -> Iterator[Batch]:
        """The batches that follow `state`, without end."""
        cursor = _Cursor(**{name: list(value) for name, value in state.items()})
        with ThreadPoolExecutor(self._threads) as pool:
            while True:
                yield self._next(cursor, pool)

    def _next(self, cursor: _Cursor, pool: ThreadPoolExecutor) -> Batch:
        first = sum(cursor.taken)
        slots: list[tuple[_Drawn, Any]] = []
        while len(slots) < self._batch:
            plan = self._draw(cursor, self._batch - len(slots))
            work = [((drawn.source, drawn.id), drawn.sample.image) for drawn in plan]
            for drawn, value in zip(
                plan, pool.map(lambda item: self._decoded.get(*item), work), strict=True
            ):
                self._decoded.keep((drawn.source, drawn.id), value)
                if value is None:
                    self._skip(cursor, drawn.source, drawn.id)
                else:
                    slots.append((drawn, value))
        return Batch(
            images=np.stack([value[0] for _, value in slots]),
            sizes=np.asarray([value[1] for _, value in slots], dtype=np.float32),
            captions=[drawn.sample.caption for drawn, _ in slots],
            ids=np.asarray([drawn.id for drawn, _ in slots], dtype=np.int64),
            sources=np.asarray([drawn.source for drawn, _ in slots], dtype=np.int64),
            places=first + np.arange(len(slots)),
            state=cursor.freeze(),
            texts=[drawn.text for drawn, _ in slots] if self._has_texts else (),
        )

    def _draw(self, cursor: _Cursor, count: int) -> list[_Drawn]:
        """The next samples by the mix; a skip gives its source's place in the mix back."""
        plan = []
        for _ in range(count):
            after = sum(cursor.taken) + 1
            behind = [
                share * after - taken
                for share, taken in zip(self.shares, cursor.taken, strict=True)
            ]
            source = behind.index(max(behind))
            found = self._readers[source].at(cursor.positions[source])
            cursor.positions[source] += 1
            cursor.taken[source] += 1
            plan.append(_Drawn(source, *found))
        return plan

    def _skip(self, cursor: _Cursor, source: int, identifier: int) -> None:
        cursor.taken[source] -= 1
        cursor.skipped[source] += 1
        reader = self._readers[source]
        name = f"{reader.url.rstrip('/').rsplit('/', 1)[-1]}:{identifier:015d}"
        if len(cursor.bad) < NAMED and name not in cursor.bad:
            cursor.bad.append(name)
        if cursor.taken[source] <= 0 and cursor.skipped[source] >= reader.order.total:
            raise SluiceError(
                f"no sample of {reader.url} can be decoded, the first being {name}",
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
    """An iterator's items, made by a thread up to `ahead` items before their use."""

    def __init__(self, items: Iterator[T], ahead: int) -> None:
        self._queue: queue.Queue[T | BaseException] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(items,), daemon=True)
        self._thread.start()

    def _fill(self, items: Iterator[T]) -> None:
        try:
            for item in items:
                if not self._put(item):
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: "T | BaseException") -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def next(self) -> T:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
