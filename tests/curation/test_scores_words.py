"""Lists of words in captions."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.score import Batch, score_draft
from curation.scores.words import Entries, WordsScorer, matches, read_entries
from infra.errors import SluiceError


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("caption", "count"),
    [
        ("a red cat", 1),
        ("Cat, CAT and cats", 2),
        ("concatenate", 0),
        ("a polar   bear's cat", 2),
        ("polar", 0),
        ("", 0),
    ],
)
def test_whole_words_in_any_case(caption: str, count: int, tmp_path: Path) -> None:
    entries = read_entries(write(tmp_path / "list.txt", "cat\n\nPolar Bear\n  \ncat\n"))
    assert matches(caption, entries) == count


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=8))
def test_agrees_with_looking_at_every_place(words: list[str]) -> None:
    entries = Entries(frozenset({("a",), ("a", "b"), ("b", "c", "a")}), {"a": (1, 2), "b": (3,)})
    joined = " ".join(words)
    places = [
        any(words[i : i + len(entry)] == list(entry) for entry in entries.entries)
        for i in range(len(words))
    ]
    assert matches(joined, entries) == sum(places)


def test_a_list_is_part_of_the_fingerprint_and_its_place_is_not(tmp_path: Path) -> None:
    first = write(tmp_path / "a.txt", "cat")
    second, other = write(tmp_path / "b.txt", "cat"), write(tmp_path / "c.txt", "dog")
    drafts = [
        score_draft("pool", "0", WordsScorer("blocked", path)) for path in (first, second, other)
    ]
    assert drafts[0].url == drafts[1].url != drafts[2].url


def test_rejected_rows_are_null(tmp_path: Path) -> None:
    rows = pa.table({"status": ["ok", "rejected"], "caption": ["a cat", "a cat"]})
    scorer = WordsScorer("blocked", write(tmp_path / "a.txt", "cat"))
    table = scorer.score(Batch(rows, [None] * 2, [None] * 2)).columns
    assert table.to_pydict() == {"matches": [1, None]}


def test_a_list_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match=r"nowhere\.txt cannot be read"):
        WordsScorer("blocked", str(tmp_path / "nowhere.txt")).settings()
    with pytest.raises(SluiceError, match=r"empty\.txt holds no words"):
        read_entries(write(tmp_path / "empty.txt", " \n"))
