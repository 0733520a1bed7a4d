"""The rungs of equal rows: each group is a star around its first row, and that one goes on."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from curation.dedup.images import (
    Bools,
    Ids,
    Images,
    Words,
    byte_words,
    perceptual_words,
    pixel_words,
)
from infra.dataset import Dataset

STEP = 1 << 20  # rows moved at once
LEAST_BITS = 16  # a pHash has 32 bits set, fewer where the picture has hardly a frequency

Star = tuple[Ids, Ids]  # ids of the first row of a group, and of another of it


def by_bytes(dataset: Dataset) -> tuple[int, Images, Star]:
    """How many rows hold an image, the first of each content, and the others."""
    images = Images.every(dataset)
    words = byte_words(images)
    held = (words[:, 0] | words[:, 1]) != 0
    first, copy = equal_rows(words)
    del words
    star = _ids(images, first, copy)
    count = int(np.count_nonzero(held))
    held[copy] = False
    return count, images.only(held), star


def by_pixels(images: Images, folders: Mapping[str, str]) -> tuple[Images, Star]:
    """The first of each picture that pixels tell apart, and the others."""
    first, copy = equal_rows(pixel_words(images, folders))
    return images.without(copy), _ids(images, first, copy)


def leaders(dataset: Dataset, folders: Mapping[str, str], pixels: bool) -> Images:
    """The rows of a version that are compared: one of each content, or of equal pixels."""
    images = by_bytes(dataset)[1]
    return by_pixels(images, folders)[0] if pixels else images


def by_hashes(images: Images, folders: Mapping[str, str]) -> tuple[Images, Words, Star, int]:
    """The first of equal perceptual hashes, their hashes, the others, and how many say nothing."""
    words = perceptual_words(images, folders)
    told = telling(words)
    words[~told] = 0
    first, copy = equal_rows(words)
    star = _ids(images, first, copy)
    silent = len(told) - int(np.count_nonzero(told))
    told[copy] = False
    return images.only(told), compacted(words, told), star, silent


def equal_rows(words: Words) -> tuple[Ids, Ids]:
    """The rows that are equal to one before them, and the first such: first [m], copy [m].

    words: [n, 2]; zero words are equal to nothing. One sort of 8 bytes a row.
    """
    from curation.dedup import equal  # what it imports costs a third of a second

    bits = np.uint64(max(1, len(words).bit_length()))
    keys = equal.row_keys(words, bits)
    keys.sort()
    first, copy = np.empty((2, equal.possible_copies(keys, bits)), np.int64)
    count = equal.copies(keys, bits, words, first, copy)
    return first[:count], copy[:count]


def compacted(words: Words, chosen: Bools) -> Words:
    """words[chosen], in the memory of `words`."""
    count = 0
    for start in range(0, len(words), STEP):
        rows = words[start : start + STEP][chosen[start : start + STEP]]
        words[count : count + len(rows)] = rows
        count += len(rows)
    return words[:count]


def telling(hashes: Words) -> npt.NDArray[np.bool_]:
    """Whether hashes [n, 2] say enough of a picture to be compared: a flat one's do not."""
    return np.bitwise_count(hashes[:, 0]) >= LEAST_BITS


def _ids(images: Images, first: Ids, copy: Ids) -> Star:
    if not len(copy):
        return copy, copy
    ids = images.ids()
    return ids[first], ids[copy]
