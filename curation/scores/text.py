"""Statistics of the caption."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curation.score import Batch, Scores, filled

URL = re.compile(r"(?:https?://|www\.)\S+|\S+\.(?:jpe?g|png|webp|gif|html?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class TextScorer:
    """Columns (null for rows rejected at ingest):

    characters    int32, code points
    words         int32, runs between white space
    repetition    float32 0..1, share of words that stood in the caption before
    url_share     float32 0..1, share of characters in web addresses and file names
    digit_share   float32 0..1, share of characters that are digits
    """

    name = "text"
    code = 1
    reads_images = False
    reads_vectors = ()
    vectors = ()
    columns = pa.schema(
        {
            "characters": pa.int32(),
            "words": pa.int32(),
            "repetition": pa.float32(),
            "url_share": pa.float32(),
            "digit_share": pa.float32(),
        }
    )

    def settings(self) -> Mapping[str, Any]:
        return {}

    def score(self, batch: Batch) -> Scores:
        positions = batch.valid
        captions: list[str] = (
            batch.rows["caption"].take(pa.array(positions, pa.int64())).to_pylist()
        )
        values = [statistics(caption) for caption in captions]
        columns = {
            field.name: filled(
                len(batch), positions, [value[index] for value in values], field.type
            )
            for index, field in enumerate(self.columns)
        }
        return Scores(pa.table(columns))


def statistics(caption: str) -> tuple[int, int, float, float, float]:
    """characters, words, repetition, url_share, digit_share of one caption."""
    words = caption.casefold().split()
    length = max(len(caption), 1)
    return (
        len(caption),
        len(words),
        1 - len(set(words)) / len(words) if words else 0.0,
        sum(len(found) for found in URL.findall(caption)) / length,
        sum(sign.isdigit() for sign in caption) / length,
    )
