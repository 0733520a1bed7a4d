import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.score import Batch
from curation.scores.text import TextScorer, statistics


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a cat on a mat", (14, 5, 0.2, 0, 0)),
        ("Buy Buy buy buy", (15, 4, 0.75, 0, 0)),
        ("12 cats", (7, 2, 0, 0, 2 / 7)),
        ("IMG_0012.JPG", (12, 1, 0, 1, 4 / 12)),
        ("see https://x.org/a now", (23, 3, 0, 15 / 23, 0)),
        ("猫 と 犬", (5, 3, 0, 0, 0)),
        ("", (0, 0, 0, 0, 0)),
    ],
)
def test_statistics(caption: str, expected: tuple[float, ...]) -> None:
    assert statistics(caption) == pytest.approx(expected)


@given(st.text())
def test_any_text(caption: str) -> None:
    characters, words, *shares = statistics(caption)
    assert characters == len(caption)
    assert words <= characters
    assert all(0 <= share <= 1 for share in shares)


def test_rejected_rows_are_null() -> None:
    rows = pa.table({"status": ["rejected", "ok", "rejected"], "caption": ["lost", "a cat", None]})
    table = TextScorer().score(Batch(rows, [None] * 3, [None] * 3)).columns
    assert table["words"].to_pylist() == [None, 2, None]
    assert table["repetition"].to_pylist() == [None, 0, None]
