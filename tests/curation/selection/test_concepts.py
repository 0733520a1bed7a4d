"""Concepts: the automaton against plain search, the probability against its definition."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.selection.concepts import (
    Matcher,
    Matches,
    Spilled,
    log_missed,
    pad,
    read_entries,
    solve,
)
from infra.errors import SluiceError

WORDS = st.sampled_from(["dog", "dogs", "do", "a", "big dog", "New York", "York", "it's", "é", "0"])
SIGNS = st.sampled_from([" ", ",", ".", "; ", "!", "`", "\n", "\t", "-", "  "])
TEXTS = st.lists(st.tuples(WORDS, SIGNS), max_size=8).map(
    lambda parts: "".join(word + sign for word, sign in parts)
)


def plain(entries: list[str], texts: list[str | None]) -> list[set[int]]:
    """The paper's matching, entry by entry."""
    found = []
    for text in texts:
        padded = text or ""
        for sign in ",.;:?!`":
            padded = padded.replace(sign, f" {sign} ")
        padded = f" {padded} ".replace("\t", " ").replace("\n", " ").replace("\r", " ")
        found.append({i for i, entry in enumerate(entries) if text and f" {entry} " in padded})
    return found


def sets(matches: Matches) -> list[set[int]]:
    found: list[set[int]] = [set() for _ in range(matches.count)]
    for text, entry in zip(matches.texts.tolist(), matches.entries.tolist(), strict=True):
        assert entry not in found[text]
        found[text].add(entry)
    return found


@given(st.lists(WORDS, min_size=1, unique=True), st.lists(st.none() | TEXTS | st.text()))
def test_the_automaton_finds_what_plain_search_finds(entries, texts) -> None:
    assert sets(Matcher(entries).match(texts)) == plain(entries, texts)


def test_whole_words_in_the_same_case() -> None:
    assert pad("A dog,big\tone") == " A dog , big one "
    found = sets(Matcher(["dog", "a"]).match(["Dog", "hotdog", "a dog.", "a a a", None, "dog"]))
    assert found == [set(), set(), {0, 1}, {1}, set(), {0}]


@given(st.data())
def test_the_probability_is_that_of_any_entry_drawing(data) -> None:
    of = data.draw(st.integers(1, 6))
    rows = data.draw(st.lists(st.sets(st.integers(0, of - 1)), min_size=1, max_size=20))
    t = data.draw(st.floats(0.5, 30))
    pairs = [(text, entry) for text, row in enumerate(rows) for entry in sorted(row)]
    texts, entries = np.array(pairs, np.int64).reshape(-1, 2).T
    matches = Matches(texts, entries, len(rows), of)
    counts = matches.counts()
    found = matches.probability(log_missed(counts, t))
    for row, probability in zip(rows, found, strict=True):
        missed = [1 - min(1, t / counts[entry]) for entry in row]
        assert probability == pytest.approx(1 - np.prod(missed) if row else 0, abs=1e-12)
    rarest = matches.rarest(counts)
    for row, entry in zip(rows, rarest.tolist(), strict=True):
        assert entry == min(row, key=lambda e: (counts[e], e), default=-1)


def spilled(pieces: list[Matches]) -> tuple[Spilled, np.ndarray]:
    found = Spilled(io.BytesIO(), pieces[0].of)
    for piece in pieces:
        found.add(piece)
    return found, found.counts


def test_t_is_solved_for_a_target() -> None:
    rng = np.random.default_rng(0)
    entries = np.minimum(rng.zipf(1.3, 20_000) - 1, 499)
    matches, counts = spilled([Matches(np.arange(20_000), entries, 20_000, 500)])
    for target in (100, 5000, 19_000):
        t = solve(matches, counts, target)
        assert matches.expected(counts, t) == pytest.approx(target, abs=0.05)
    for target in (20_000, 10**9):  # all stay
        t = solve(matches, counts, target)
        assert matches.expected(counts, t) == 20_000
    t = solve(matches, counts, -5)
    assert matches.expected(counts, t) < 0.02


@given(st.lists(st.sets(st.integers(0, 3)), min_size=1, max_size=12), st.data())
def test_pieces_in_a_file_are_judged_as_one(rows, data) -> None:
    def matches(part: list[set[int]]) -> Matches:
        pairs = [(text, entry) for text, row in enumerate(part) for entry in sorted(row)]
        texts, entries = np.array(pairs, np.int64).reshape(-1, 2).T
        return Matches(texts, entries, len(part), 4)

    cut = data.draw(st.integers(0, len(rows)))
    whole, counts = spilled([matches(rows)])
    pieces, same = spilled([matches(rows[:cut]), matches(rows[cut:])])
    assert counts.tolist() == same.tolist() and whole.unmatched == pieces.unmatched
    for found, expected in zip(pieces.judge(counts, 1.5), whole.judge(counts, 1.5), strict=True):
        assert found.tolist() == expected.tolist()
    assert pieces.expected(counts, 1.5) == whole.expected(counts, 1.5)
    assert pieces.expected(counts, 1.5) == pytest.approx(whole.judge(counts, 1.5)[0].sum())


def test_entries_are_read_once_each(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(["dog", " dog ", "", "New York"]))
    (tmp_path / "a.txt").write_text("\ufeffdog\r\n\n dog\nNew York\n", encoding="utf-8")
    for name in ("a.json", "a.txt"):
        assert read_entries(str(tmp_path / name)) == ["dog", "New York"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", " \n\n", "holds no entry"),
        ("b.json", "[]", "holds no entry"),
        ("c.json", '{"dog": 1}', "holds no list"),
        ("d.json", "dog", "is not JSON"),
    ],
)
def test_a_list_without_entries_is_told(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SluiceError, match=words):
        read_entries(str(tmp_path / name))
