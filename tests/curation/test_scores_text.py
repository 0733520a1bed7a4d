import time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.score import Batch
from curation.scores.patterns import luhn
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
    assert statistics(caption)[:5] == pytest.approx(expected)


def named(caption: str) -> dict[str, float | bool]:
    return dict(zip(TextScorer.columns.names, statistics(caption), strict=True))


@pytest.mark.parametrize(
    ("caption", "column", "value"),
    [
        *((name, "file_name", True) for name in (
            "IMG_1234", "img-0012.JPG", " DSC00017 ", "Screenshot 2019-10-31 at 10.11.12",
            "screen shot 2019-10-31", "d41d8cd98f00b204e9800998ecf8427e", "00042", "blue-cat.png",
            "123e4567-e89b-12d3-a456-426614174000", "WhatsApp Image 2019-10-31 at 10.11.12",
        )),
        *((name, "file_name", False) for name in (
            "Untitled", "sunset", "a cat", "photo of 3 cats", "image 7 of nine", "see cat.png now",
            "", "image", "deadbeef",
        )),
        *((name, "boilerplate", True) for name in (
            "Untitled", "image", "[Logo]", "Cat on mat - Stock Photo", "Royalty-Free Stock Vector",
            "Click to enlarge", "No image available.",
        )),
        *((name, "boilerplate", False) for name in (
            "", "a photo of a cat", "an image of a logo", "a stocky photographer",
        )),
        ("write a.b+c@mail.example.org or d@e.fr", "emails", 2),
        ("@handle a@b", "emails", 0),
        ("call +49 30 1234567", "phones", 1),
        ("(212) 555-0123-99 or 0044 20 7946 0958", "phones", 2),
        ("born 1967, 31.10.2019, 25 x 30 cm, item 123456789", "phones", 0),
        ("2019-10-31 1011", "phones", 0),
        ("4111 1111 1111 1111", "cards", 1),
        ("4111 1111 1111 1112", "cards", 0),
        ("4111111111111111 and 5500-0000-0000-0004", "cards", 2),
        ("2019-10-31", "date_share", 1),
        ("31 October 2019", "date_share", 1),
        ("Oct 31st, 2019", "date_share", 1),
        ("2019 oct 3", "date_share", 0),
        ("on 10/31/19", "date_share", 8 / 11),
    ],
)  # fmt: skip
def test_patterns(caption: str, column: str, value: float | bool) -> None:
    assert named(caption)[column] == pytest.approx(value)


@pytest.mark.parametrize("sign", ["a", "1", "(1", "1 ", ".", "a.", "@", "a@", "www.", "+1-", "é"])
def test_hostile_captions_take_no_time(sign: str) -> None:
    start = time.process_time()
    statistics(sign * 200_000)
    assert time.process_time() - start < 2


def test_the_check_digit_of_a_card() -> None:
    assert luhn("79927398713") and not luhn("79927398710")


@given(st.text())
def test_any_text(caption: str) -> None:
    characters, words, *shares = statistics(caption)[:6]
    assert characters == len(caption)
    assert words <= characters
    assert all(0 <= share <= 1 for share in shares)


def test_rejected_rows_are_null() -> None:
    rows = pa.table({"status": ["rejected", "ok", "rejected"], "caption": ["lost", "a cat", None]})
    table = TextScorer().score(Batch(rows, [None] * 3, [None] * 3)).columns
    assert table["words"].to_pylist() == [None, 2, None]
    assert table["repetition"].to_pylist() == [None, 0, None]
