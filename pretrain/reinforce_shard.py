"""One shard of a teacher's outputs: images decoded as training decodes them, views, answers.

Images pass through a teacher in chunks of one size, the last one padded, so that an output depends
on its own image alone (see `indexes.encoder.ClipEncoder`).
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache, partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from infra.artifacts import Part
from infra.dataset import Dataset, part_name, write_table
from infra.errors import SluiceError
from infra.feeding import fed
from infra.runner import own_processors
from infra.samples import Sample
from infra.threads import ahead
from pretrain import label_teacher, outputs, replay
from pretrain.data import open_source
from pretrain.decoded import decode
from pretrain.label_teacher import LabelTeacher
from pretrain.loop import deterministic, pick_device
from pretrain.reinforce_settings import ReinforceSettings

CHUNK, GPU_CHUNK = 32, 256  # images of a forward pass
AHEAD = 64  # images decoded before they are used

Arrays = dict[str, NDArray[Any]]


class Image(NamedTuple):
    """A decoded sample: its row, uint8 [canvas, canvas, 3], and its height and width before."""

    row: int
    pixels: NDArray[np.uint8]
    size: tuple[int, int]


class Asked:
    """Loaded teachers, and what they say of decoded images."""

    def __init__(self, settings: ReinforceSettings) -> None:
        self.settings = settings
        self.device = pick_device(settings.device)
        self.teachers = label_teacher.load(settings, self.device)
        self.size = max(each.size for each in self.teachers)
        self.canvas = settings.canvas or self.size * 3 // 2
        self.chunk = CHUNK if self.device.type == "cpu" else GPU_CHUNK
        self.facts = {
            "image_size": self.size,
            "canvas": self.canvas,
            **self._width(),
        }

    def _width(self) -> dict[str, int]:
        """How many classes, or numbers of a vector."""
        teacher = self.teachers[0]
        if self.settings.output != "vectors":
            return {"class_count": len(teacher.classes)}
        with torch.inference_mode():
            blank = torch.zeros(1, 3, teacher.size, teacher.size, device=self.device)
            return {"width": teacher.vectors(blank).shape[1]}

    def of(self, images: Sequence[Image], uids: Sequence[str]) -> Arrays:
        """The columns of these images, at most `chunk` of them.

        Where a GPU has no room for a chunk it is halved; SluiceError where it is small already.
        """
        try:
            return self._of(images, uids)
        except torch.OutOfMemoryError as error:
            if self.chunk <= CHUNK:
                raise SluiceError(
                    f"{CHUNK} images do not fit into the memory of {self.device}: {error}",
                    "let fewer workers share a GPU, or name a smaller teacher",
                ) from error
        size = self.chunk = self.chunk // 2  # which halves again while the first of these is done
        pieces = [
            self.of(images[start : start + size], uids[start : start + size])
            for start in range(0, len(images), size)
        ]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _of(self, images: Sequence[Image], uids: Sequence[str]) -> Arrays:
        pixels = np.stack([image.pixels for image in images])
        if self.settings.output == "map":
            return self._map(pixels)
        sizes = np.asarray([image.size for image in images], np.float32)
        views = replay.draw(self.settings, uids, sizes)
        found = [self._view(pixels, {name: values[:, k] for name, values in views.items()})
                 for k in range(self.settings.views)]  # fmt: skip
        return {**{name: np.stack([each[name] for each in found], 1) for name in found[0]}, **views}

    def none(self) -> Arrays:
        """The columns of no image."""
        blank = Image(0, np.zeros((self.canvas, self.canvas, 3), np.uint8), (1, 1))
        return {name: values[:0] for name, values in self.of([blank], [""]).items()}

    def _view(self, pixels: NDArray[np.uint8], stored: replay.Stored) -> Arrays:
        if self.settings.output == "vectors":
            given = self._answers(pixels, stored, LabelTeacher.vectors)
            return {"vectors": given.astype(np.float16)}
        given = self._answers(pixels, stored, LabelTeacher.probabilities)
        classes, shares = outputs.shorten(given, self.settings.top)
        return {"classes": classes, "probabilities": shares}

    def _map(self, pixels: NDArray[np.uint8]) -> Arrays:
        given = self._answers(pixels, replay.whole(len(pixels)), LabelTeacher.scores)
        classes, scores = outputs.shorten_map(given, self.settings.top)
        return {"classes": classes, "scores": scores}

    def _answers(
        self,
        pixels: NDArray[np.uint8],
        stored: replay.Stored,
        ask: Callable[[LabelTeacher, Tensor], Tensor],
    ) -> NDArray[np.float32]:
        """Of each image [n, ...]; the chunk is filled up with copies of the last one."""
        filled = np.minimum(np.arange(self.chunk), len(pixels) - 1)
        shown = torch.from_numpy(pixels[filled]).to(self.device)
        views = {name: values[filled] for name, values in stored.items()}

        def answer(teacher: LabelTeacher) -> Tensor:
            images = replay.render(shown, views, teacher.size, teacher.mean, teacher.std)
            return ask(teacher, images)

        with torch.inference_mode():
            given = label_teacher.scored(self.teachers, answer)
        return given[: len(pixels)].cpu().numpy()


@lru_cache(maxsize=1)
def _asked(settings: str) -> Asked:
    """Teachers loaded once per process; settings: as JSON."""
    return Asked(ReinforceSettings.model_validate_json(settings))


def reinforce_shard(url: str, dataset_url: str, shard: int, settings: ReinforceSettings) -> Part:
    """The part of a shard; its columns are written under `url`."""
    name, dataset = part_name(shard), Dataset(open_source(dataset_url))
    rows = dataset.rows(shard, ["uid", "status"])
    uids: list[str] = rows["uid"].to_pylist()
    with deterministic(1):
        asked = _asked(settings.model_dump_json())
        kept: list[int] = []
        pieces: list[Arrays] = []
        with closing(_decoded(dataset.samples(shard), asked.canvas)) as decoded:
            for images in fed(_chunks(decoded, asked.chunk)):
                places = [image.row for image in images]
                pieces.append(asked.of(images, [uids[row] for row in places]))
                kept += places
    samples = rows["status"].to_pylist().count("ok")
    pieces = pieces or [asked.none()]
    columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    table = pa.table({name: column(values, kept, len(rows)) for name, values in columns.items()})
    file = write_table(url, f"columns/{name}.parquet", table)
    lost = {"no_sample": len(rows) - samples, "undecodable": samples - len(kept)}
    return Part(
        name,
        (file,),
        len(rows),
        len(kept),
        {reason: count for reason, count in lost.items() if count},
        asked.facts,
    )


def _decoded(samples: Iterator[Sample], canvas: int) -> Generator[Image, None, None]:
    """The images that can be decoded, by threads where this worker has processors to spare."""
    load = partial(_load, canvas=canvas)
    threads = own_processors() - 1
    if not threads:
        yield from (image for image in map(load, samples) if image is not None)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from (image for image in ahead(pool, load, samples, AHEAD) if image is not None)


def _load(sample: Sample, canvas: int) -> Image | None:
    try:
        return Image(sample.row, *decode(sample.image, canvas))
    except ValueError:
        return None


def _chunks(images: Iterator[Image], size: int) -> Iterator[list[Image]]:
    while chunk := list(islice(images, size)):
        yield chunk


def column(values: NDArray[Any], rows: Sequence[int], count: int) -> pa.Array:
    """A column of nested lists of fixed sizes, null in all rows but these."""
    sides: tuple[int, ...] = values.shape[1:]
    whole = np.zeros((count, *sides), values.dtype)
    whole[list(rows)] = values
    missing = np.ones(count, bool)
    missing[list(rows)] = False
    array: Any = pa.array(whole.reshape(-1))
    for length in reversed(sides[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, length)
    return pa.FixedSizeListArray.from_arrays(array, sides[0], mask=pa.array(missing))
