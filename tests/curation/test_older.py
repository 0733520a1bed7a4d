"""A search that goes on from an older one finds what a search of everything would."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.dedup import ALL, EDGES, EDGES_FILE, EdgesWork, edges_draft, older_url, stored
from curation.dedup.older import matching
from curation.rules_settings import DedupSettings, NearSettings
from infra.artifacts import Artifact
from infra.dataset import read_table
from infra.errors import SluiceError
from tests.curation.conftest import Made, Maker, uid_of

KIND = "descriptor/pixels"
DEDUP = DedupSettings(near=(NearSettings(vectors=KIND, threshold=0.9, floor=0.5),))
CONTENTS = 40


class Pictures:
    """Contents, of which several share pixels, hashes or vectors, or nearly so."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.pixels = rng.integers(0, 30, CONTENTS)
        centres = rng.integers(0, 2**64, (3, 2), np.uint64)
        self.hashes = centres[rng.integers(0, 3, 30)]
        for _ in range(6):
            self.hashes ^= (np.uint64(1) << rng.integers(0, 64, (30, 2), np.uint64)) * (
                rng.random((30, 2)) < 0.5
            )
        self.hashes[:2] = 3  # says nothing
        self.vectors = rng.normal(size=(3, 6))[rng.integers(0, 3, 30)]
        self.vectors += 0.5 * rng.normal(size=(30, 6)) * (rng.random((30, 1)) < 0.7)
        self.vectors /= np.linalg.norm(self.vectors, axis=1, keepdims=True)
        self.vectors[3:5] = 0  # missing

    def stored(self, maker: Maker, contents: list[int], size: int, changed: int = -1) -> Made:
        """A version of these contents; the scores of one of them may have changed."""
        maker = replace(maker, size=size)
        rows = [
            {"image": f"{content}".encode(), "uid": uid_of(content * 7 % CONTENTS)}
            if content >= 0
            else {"rejected": "not_an_image"}
            for content in contents
        ]
        made = maker.dataset("pool", rows)
        pixels = self.pixels[contents]
        hashes, vectors = self.hashes[pixels], self.vectors[pixels]
        moved = np.array(contents) == changed
        hashes[moved] ^= np.uint64(5)
        vectors[moved] = vectors[moved][:, ::-1]
        columns = {
            "pixel_sha256": [hashlib.sha256(f"{each}".encode()).hexdigest() for each in pixels],
            "phash": pa.array(hashes[:, 0]),
            "dhash": pa.array(hashes[:, 1]),
        }
        maker.score(made, "hash", columns)
        maker.score(made, "descriptor", {"x": [0] * len(rows)}, {"pixels": vectors})
        return made


def search(
    maker: Maker, made: Made, dedup: DedupSettings = DEDUP, after: Artifact | None = None
) -> Artifact:
    if after is not None:
        name = "/".join(after.url.split("/")[-4:])  # NAME/VERSION/edges/DIGEST
        name = name.replace("/", "@", 1).replace("/edges/", "/")
        dedup = dedup.model_copy(update={"after": name})
    older = older_url(maker.store, dedup)
    draft = edges_draft(made.url, made.digest, made.folders, dedup)
    return maker.run(draft, [ALL], EdgesWork(draft.url, made.url, made.folders, dedup, older))


def table(artifact: Artifact) -> pa.Table:
    return read_table(artifact.path(EDGES_FILE))


def known(artifact: Artifact) -> dict[str, int]:
    return artifact.parts[0].extra["known"]


@pytest.mark.parametrize("seed", range(12))
def test_edges_are_those_of_a_search_of_everything(maker: Maker, seed: int) -> None:
    """Rows come, go, change, and stand in other shards and another order."""
    rng = np.random.default_rng(seed)
    pictures = Pictures(seed)
    first = rng.integers(-1, CONTENTS, rng.integers(0, 60)).tolist()
    second = [*rng.permutation(first)[: rng.integers(0, 60)].tolist()]
    second = rng.permutation([*second, *rng.integers(-1, CONTENTS, rng.integers(1, 40))]).tolist()
    older = search(maker, pictures.stored(maker, first, int(rng.integers(3, 20))))
    changed = int(rng.integers(0, CONTENTS))
    made = pictures.stored(maker, second, int(rng.integers(3, 20)), changed)
    whole, grown = search(maker, made), search(maker, made, after=older)
    assert table(grown).equals(table(whole))
    assert table(whole).num_rows
    assert grown.digest != whole.digest
    figures = dict(grown.parts[0].extra)
    del figures["known"]
    assert figures == whole.parts[0].extra
    third = search(maker, pictures.stored(maker, second[::-1], 7, changed), after=grown)
    again = search(maker, pictures.stored(maker, second[::-1], 7, changed))
    assert table(third).equals(table(again))


def test_pairs_of_known_rows_are_not_looked_for_again(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = Pictures(0)
    made = pictures.stored(maker, list(range(20)), 8)
    grown = pictures.stored(maker, list(range(CONTENTS)), 8)
    first = search(maker, made)
    seen: dict[str, tuple[int, int]] = {}

    def counted(name: str, real: Any) -> Any:
        def search(rows: Any, *args: Any, known: int) -> Any:
            seen[name] = len(rows), known
            return real(rows, *args, known=known)

        return search

    from curation.dedup import edges

    for name in ("range_pairs", "hamming_pairs"):
        monkeypatch.setattr(edges, name, counted(name, getattr(edges, name)))
    second = search(maker, grown, after=first)
    assert known(second) == {"perceptual": seen["hamming_pairs"][1], KIND: seen["range_pairs"][1]}
    for rows, old in seen.values():
        assert 0 < old < rows
    assert table(search(maker, made, after=second)).equals(table(first))
    assert seen["range_pairs"][0] == seen["range_pairs"][1]


@pytest.mark.parametrize(
    ("older", "taken"),
    [
        ({"radius_floor": 14}, {"perceptual", KIND}),
        ({"radius_floor": 11}, {KIND}),
        ({"perceptual": False}, {KIND}),
        ({"pixels": False}, {"perceptual", KIND}),
        ({"near": ()}, {"perceptual"}),
        ({"near": (NearSettings(vectors=KIND, threshold=0.9, floor=0.4),)}, {"perceptual", KIND}),
        ({"near": (NearSettings(vectors=KIND, threshold=0.9, floor=0.6),)}, {"perceptual"}),
    ],
    ids=["farther", "nearer", "no hashes", "no pixels", "no vectors", "lower", "higher"],
)
def test_an_older_search_that_looked_less_far_is_done_anew(
    maker: Maker, older: dict[str, Any], taken: set[str]
) -> None:
    pictures = Pictures(1)
    rows = [*range(CONTENTS), 3, 3, 5]
    first = search(maker, pictures.stored(maker, rows, 9), DEDUP.model_copy(update=older))
    made = pictures.stored(maker, [*range(20, CONTENTS), *range(10)], 8)
    second = search(maker, made, after=first)
    assert table(second).equals(table(search(maker, made)))
    assert {kind for kind, count in known(second).items() if count} == taken


def test_what_is_no_search_is_refused(maker: Maker) -> None:
    made = Pictures(2).stored(maker, [1, 2, 3], 8)
    first = search(maker, made)
    gone = DEDUP.model_copy(update={"after": f"pool@{made.digest}/0123"})
    with pytest.raises(SluiceError, match="nothing is committed"):
        older_url(maker.store, gone)
    folder = f"{made.url}/scores/{made.folders['hash']}"
    draft = edges_draft(made.url, made.digest, made.folders, gone)
    with pytest.raises(SluiceError, match="no pairs to go on from"):
        EdgesWork(draft.url, made.url, made.folders, gone, folder)("", ["all"])
    with pytest.raises(ValueError, match="after"):
        DedupSettings.model_validate({"after": first.url})


words = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=14)


@given(words, words)
def test_equal_words_are_matched_in_their_order(
    ours: list[tuple[int, int]], theirs: list[tuple[int, int]]
) -> None:
    left, right = (np.array(each, np.uint64).reshape(-1, 2) for each in (ours, theirs))
    expected, free = [], [(word, place) for place, word in enumerate(theirs)]
    for word in ours:
        match = next((entry for entry in free if entry[0] == word), (word, -1))
        expected.append(match[1])
        free = [entry for entry in free if entry != match]
    assert matching(left, right).tolist() == expected


def test_of_many_words_each_is_given_once() -> None:
    left, right = np.random.default_rng(0).integers(0, 40, (2, 900, 2), np.uint64)
    found = matching(left, right)
    taken = found[found >= 0]
    assert (left[found >= 0] == right[taken]).all()
    assert len(set(taken.tolist())) == len(taken) > 300


def test_words_of_one_hash_are_told_apart() -> None:
    """Few bits are left of a hash where there are many rows: words that differ share it."""
    from curation.dedup import equal

    left, right = np.random.default_rng(1).integers(0, 4, (2, 300, 2), np.uint64)
    places = np.arange(300, dtype=np.uint64)
    found = np.empty(300, np.int32)
    equal.matches(places, places.copy(), np.uint64(20), left, right, found)  # all of hash 0
    assert found.tolist() == matching(left, right).tolist()


def test_pairs_are_written_sorted_in_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "GROUP", 7)
    rng = np.random.default_rng(0)
    found, rows = [], []
    for kind in ("pixels", "exact", "near/v"):
        a, b = rng.integers(0, 9, 20), rng.integers(9, 18, 20)
        similarity = rng.random(20, np.float32)
        found.append(stored.Edges(kind, a, b, similarity))
        rows += list(zip(a.tolist(), b.tolist(), [kind] * 20, similarity.tolist(), strict=True))
    part = stored.write_edges(str(tmp_path), found)
    assert part.bytes == (tmp_path / EDGES_FILE).stat().st_size
    written = read_table(str(tmp_path / EDGES_FILE))
    assert written.schema.equals(EDGES)
    assert list(zip(*written.to_pydict().values(), strict=True)) == sorted(
        rows, key=lambda row: row[:3]
    )
    assert not found
    stored.write_edges(str(tmp_path), [])
    assert read_table(str(tmp_path / EDGES_FILE)).equals(EDGES.empty_table())
