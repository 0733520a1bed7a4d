"""Statistics of the caption."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curation.score import Batch, Scores, filled
from curation.scores import patterns
from curation.units import column

LONGEST = 10_000  # characters that the patterns look at


@dataclass(frozen=True)
class TextScorer:
    """Columns (null for rows rejected at ingest):

    characters    int32, code points
    words         int32, runs between white space
    repetition    float32 0..1, share of words that stood in the caption before
    url_share     float32 0..1, share of characters in web addresses and file names
    digit_share   float32 0..1, share of characters that are digits
    date_share    float32 0..1, share of characters in dates
    file_name     bool, the caption is a file's name: IMG_1234, a digest, a UUID, numbers alone
    boilerplate   bool, it is an empty word ("untitled") or holds a stock agency's phrase
    emails        int32, e-mail addresses
    phones        int32, telephone numbers
    cards         int32, card numbers (Luhn)

    Of a caption longer than LONGEST the patterns see the beginning.
    """

    name = "text"
    code = 2
    reads_images = False
    reads_vectors = ()
    vectors = ()
    columns = pa.schema(
        [
            column("characters", pa.int32(), "code points"),
            column("words", pa.int32(), "words"),
            column("repetition", pa.float32(), "share of words"),
            column("url_share", pa.float32(), "share of characters"),
            column("digit_share", pa.float32(), "share of characters"),
            column("date_share", pa.float32(), "share of characters"),
            pa.field("file_name", pa.bool_()),
            pa.field("boilerplate", pa.bool_()),
            column("emails", pa.int32(), "addresses"),
            column("phones", pa.int32(), "numbers"),
            column("cards", pa.int32(), "numbers"),
        ]
    )

    def settings(self) -> Mapping[str, Any]:
        return {}

    def score(self, batch: Batch) -> Scores:
        positions = batch.valid
        captions: list[str] = (
            batch.rows["caption"].take(pa.array(positions, pa.int64())).to_pylist()
        )
        values = [statistics(caption or "") for caption in captions]
        columns = {
            field.name: filled(
                len(batch), positions, [value[index] for value in values], field.type
            )
            for index, field in enumerate(self.columns)
        }
        return Scores(pa.table(columns))


def statistics(caption: str) -> tuple[float | bool, ...]:
    """The columns of one caption, in order.

    Most captions hold no digit, dot, slash or @: what cannot match is not looked for.
    """
    folded = caption.casefold()
    words = folded.split()
    length = max(len(caption), 1)
    seen = caption[:LONGEST]
    digits = len(patterns.DIGIT.findall(caption))
    urls = patterns.url_characters(seen) if "." in seen or "://" in seen else 0
    dates = patterns.date_characters(seen) if digits >= 4 else 0
    phones, cards = patterns.phones_and_cards(seen) if digits >= 9 else (0, 0)
    return (
        len(caption),
        len(words),
        1 - len(set(words)) / len(words) if words else 0.0,
        urls / length,
        digits / length,
        dates / length,
        patterns.is_file_name(seen.strip()),
        patterns.is_boilerplate(folded[:LONGEST]),
        len(patterns.EMAIL.findall(seen)) if "@" in seen else 0,
        phones,
        cards,
    )
