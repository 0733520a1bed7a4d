"""Balance over concepts: MetaCLIP (Xu et al. 2023, arXiv:2309.16671).

An entry of the metadata matches a text where it stands in it as whole words, case and all. An
entry with n_e matches draws each of them with probability min(1, t / n_e); a text stays if any of
its entries draws it: with probability 1 - prod(1 - p_e), by one draw of its own.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import ahocorasick
import numpy as np
import pyarrow as pa

from curation.draws import Floats, drawn
from curation.selection.choice import Cells, Choice, Ints
from curation.selection.rows import Rows
from curation.selection.settings import NO_CONCEPT, ConceptSettings
from infra import filesystem
from infra.errors import SluiceError

# What the paper's matching puts spaces around, and what it takes for a space.
PADDED = str.maketrans({sign: f" {sign} " for sign in ",.;:?!`"} | dict.fromkeys("\t\n\r", " "))
STEPS = 64  # halvings of the interval that holds t: down to the last bit of a float64
PIECE = 1 << 16  # texts matched at once
UNIT = 2**40  # parts of a probability, of which 2**23 fit into 63 bits


def select(
    settings: ConceptSettings,
    rows: Rows,
    key: tuple[object, ...],
    before: pa.Table | None = None,
) -> Choice:
    """Rows by the concepts their texts name; `t` as given, or for the target.

    before: the state of an older plan, whose matches count, too.
    """
    entries = read_entries(settings.entries)
    with tempfile.TemporaryFile(prefix="sluice-") as file:
        matched = Spilled(file, len(entries))
        matcher = Matcher(entries)
        for texts in rows.texts(settings.reason, settings.text):
            for start in range(0, len(texts), PIECE):
                matched.add(matcher.match(texts.slice(start, PIECE).to_pylist()))
        counts = matched.counts + (older_counts(entries, before) if before else 0)
        t = settings.t or solve(matched, counts, _wanted(settings, len(rows), matched.unmatched))
        probability, rarest = matched.judge(counts, t)
    unmatched = rarest < 0
    probability[unmatched] = settings.unmatched == "keep"
    selected = drawn(rows.uids, probability, *key)
    names = pa.array(entries, pa.string())
    return Choice(
        probability,
        selected,
        rarest,
        names,
        unmatched,
        NO_CONCEPT,
        state=pa.table({"entry": names, "count": counts}),
        figures=_figures(counts, t, matched.unmatched),
    )


def _wanted(settings: ConceptSettings, rows: int, unmatched: int) -> int:
    """How many texts with an entry are to be expected."""
    size = settings.target or 0
    if settings.fraction is not None:
        size = int(rows * settings.fraction + 0.5)
    return size - (unmatched if settings.unmatched == "keep" else 0)


def older_counts(entries: Sequence[str], before: pa.Table) -> Ints:
    """The matches that an older plan counted, for each of our entries."""
    known = dict(zip(before["entry"].to_pylist(), before["count"].to_pylist(), strict=True))
    return np.array([known.get(entry, 0) for entry in entries], np.int64)


def _figures(counts: Ints, t: float, unmatched: int) -> dict[str, Any]:
    matches = int(counts.sum())
    tail = int(counts[counts < t].sum())
    return {
        "t": t,
        "entries": len(counts),
        "entries_matched": int((counts > 0).sum()),
        "entries_thinned": int((counts > t).sum()),
        "matches": matches,
        "tail_share": round(tail / matches, 6) if matches else 0.0,
        "unmatched": unmatched,
    }


def read_entries(url: str) -> list[str]:
    """The entries of a metadata file, each once: a JSON list of strings, or one a line."""
    text = filesystem.read_bytes(url).decode("utf-8", "replace").lstrip("\ufeff")
    if url.endswith(".json"):
        try:
            lines = json.loads(text)
        except ValueError as error:
            raise SluiceError(f"{url} is not JSON: {error}", "give a list of strings") from error
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise SluiceError(f"{url} holds no list of strings", "give one, or a .txt of lines")
    else:
        lines = text.splitlines()
    entries = list(dict.fromkeys(entry for line in lines if (entry := line.strip())))
    if not entries:
        raise SluiceError(f"{url} holds no entry", "give a metadata list with one entry a line")
    return entries


class Matches:
    """Which entries each of n texts names: positions of texts and of entries, pair by pair."""

    def __init__(self, texts: Ints, entries: Ints, count: int, of: int) -> None:
        self.texts, self.entries, self.count, self.of = texts, entries, count, of

    def counts(self) -> Ints:
        """How many texts name each entry, int64 [entries]."""
        return np.bincount(self.entries, minlength=self.of)

    def unmatched(self) -> Any:
        """Whether a text names no entry, bool [n]."""
        return np.bincount(self.texts, minlength=self.count) == 0

    def probability(self, missed: Floats) -> Floats:
        """1 - prod(1 - p_e) over the entries of each text, float64 [n]; missed: log(1 - p_e)."""
        return -np.expm1(np.bincount(self.texts, missed[self.entries], self.count))

    def rarest(self, counts: Ints) -> Ints:
        """The entry of each text that the fewest texts name, -1 where it names none: [n]."""
        found = np.full(self.count, -1)
        order = np.lexsort((self.entries, counts[self.entries], self.texts))
        found[self.texts[order][::-1]] = self.entries[order][::-1]  # the last write is the rarest
        return found


class Spilled:
    """The matches of all rows, piece by piece, in a file: 4 bytes for each text and each match.

    counts: how many texts name each entry, [entries]. unmatched: how many texts name none.
    """

    def __init__(self, file: IO[bytes], of: int) -> None:
        self.counts = np.zeros(of, np.int64)
        self.unmatched = self.count = 0
        self._file = file
        self._sizes: list[tuple[int, int]] = []  # of texts and of matches of each piece

    def add(self, piece: Matches) -> None:
        """One more piece, after those that are there."""
        self.counts += piece.counts()
        self.unmatched += int(piece.unmatched().sum())
        self.count += piece.count
        self._sizes.append((piece.count, len(piece.entries)))
        lengths = np.bincount(piece.texts, minlength=piece.count)
        for array in (lengths, piece.entries):
            self._file.write(array.astype(np.int32).tobytes())

    def __iter__(self) -> Iterator[Matches]:
        """The pieces as they were added, read from the file."""
        self._file.seek(0)
        for texts, matches in self._sizes:
            lengths, entries = (
                np.frombuffer(self._file.read(4 * size), np.int32).astype(np.int64)
                for size in (texts, matches)
            )
            yield Matches(np.repeat(np.arange(texts), lengths), entries, texts, len(self.counts))

    def judge(self, counts: Ints, t: float) -> tuple[Floats, Cells]:
        """Each text's probability and the rarest of its entries, -1 where it names none."""
        probability, rarest = np.empty(self.count), np.empty(self.count, np.int32)
        missed, start = log_missed(counts, t), 0
        for piece in self:
            part = slice(start, start + piece.count)
            probability[part] = piece.probability(missed)
            rarest[part] = piece.rarest(counts)
            start += piece.count
        return probability, rarest

    def expected(self, counts: Ints, t: float) -> float:
        """How many texts are expected to stay: summed in whole parts, so in any order alike."""
        missed = log_missed(counts, t)
        parts = ((piece.probability(missed) * UNIT).astype(np.int64) for piece in self)
        return sum(int(part.sum()) for part in parts) / UNIT


class Matcher:
    """All entries at once: an Aho-Corasick automaton over padded text."""

    def __init__(self, entries: Sequence[str]) -> None:
        self.of = len(entries)
        self._automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)
        for position, entry in enumerate(entries):
            self._automaton.add_word(f" {entry} ", position)
        self._automaton.make_automaton()

    def match(self, texts: Sequence[str | None]) -> Matches:
        """The entries of each text, once each; a null names none."""
        found: list[int] = []
        lengths = np.zeros(len(texts), np.int64)
        find = self._automaton.iter
        for row, text in enumerate(texts):
            if text:
                named = sorted({position for _, position in find(pad(text))})
                lengths[row] = len(named)
                found.extend(named)
        rows = np.repeat(np.arange(len(texts)), lengths)
        return Matches(rows, np.array(found, np.int64), len(texts), self.of)


def pad(text: str) -> str:
    """Text as entries are looked for in it: `"A dog, big"` -> `" A dog ,  big "`."""
    return f" {text.translate(PADDED)} "


def entry_probability(counts: Ints, t: float) -> Floats:
    """min(1, t / n_e) for each entry, 1 where it was never named."""
    return t / np.maximum(counts, t)


def log_missed(counts: Ints, t: float) -> Floats:
    """log(1 - p_e) for each entry."""
    with np.errstate(divide="ignore"):
        return np.log1p(-entry_probability(counts, t))


def solve(matched: Spilled, counts: Ints, target: int) -> float:
    """The t at which `target` matched rows are expected; that which keeps all, if it is too much.

    The expectation grows with t, so the interval is halved until it is a hundredth of a row wide.
    """
    low, high = 0.0, float(max(counts.max(initial=1), 1))
    if target >= matched.count - matched.unmatched:
        return high
    for _ in range(STEPS):
        middle = (low + high) / 2
        expected = matched.expected(counts, middle)
        if abs(expected - target) < 0.01:
            return middle
        low, high = (middle, high) if expected < target else (low, middle)
    return high
