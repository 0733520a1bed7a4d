"""Captions a second on one core: statistics and patterns, language, hashes for the frequency.

Best of several turns, CPU seconds. Run: python tests/bench/captions.py
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from record import keep

from curation.frequency import hashed, normalised
from curation.scores.language import language
from curation.scores.text import statistics

COUNT, TURNS = 50_000, 5
WORDS = (
    "red", "blue", "small", "large", "old", "new", "wooden", "photograph", "bicycle", "church",
    "mountain", "lake", "woman", "man", "dog", "cat", "kitchen", "table", "lamp", "vintage",
    "sale", "portrait", "winter", "summer", "street", "wedding", "with", "of", "the", "in", "a",
    "on", "and", "for", "at", "by", "from", "standing", "sitting", "sunset",
)  # fmt: skip
ENDS = ("", "", "", "", " - Stock Photo", " 2019-10-31", " | www.example.org", " +49 30 1234567")


def captions(count: int) -> list[str]:
    """Captions of 3 to 20 words; a half of them with what the patterns look at more closely."""
    rng = np.random.default_rng(0)
    lengths, ends = rng.integers(3, 21, count), rng.integers(0, len(ENDS), count)
    return [
        " ".join(rng.choice(WORDS, length)) + ENDS[end]
        for length, end in zip(lengths, ends, strict=True)
    ]


def a_second(work: Callable[[Sequence[str]], object], texts: Sequence[str]) -> int:
    best = float("inf")
    for _ in range(TURNS):
        start = time.process_time()
        work(texts)
        best = min(best, time.process_time() - start)
    return round(len(texts) / best)


def main() -> None:
    texts = captions(COUNT)
    language("a first one loads the model")
    rates = {
        "statistics": a_second(lambda some: [statistics(text) for text in some], texts),
        "language": a_second(lambda some: [language(text) for text in some], texts[:10_000]),
        "hashes": a_second(lambda some: hashed(normalised(pa.chunked_array([some]))), texts),
        "split_alone": a_second(lambda some: [text.casefold().split() for text in some], texts),
    }
    report = {
        "what": "captions a second on one core; split_alone: casefold and split, for comparison",
        "sizes": {"captions": COUNT, "mean_characters": round(np.mean(list(map(len, texts))), 1)},
        "captions_per_second": rates,
    }
    keep("captions", report, "py3langid", "pyarrow")


if __name__ == "__main__":
    main()
