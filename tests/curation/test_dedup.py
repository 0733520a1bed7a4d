from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.dedup import (
    ALL,
    EDGES,
    EDGES_FILE,
    Duplicates,
    EdgesWork,
    Pairs,
    edge_nodes,
    edges_draft,
    find_duplicates,
    greedy,
    preference,
    tie_words,
)
from curation.dedup.equal import copies
from curation.dedup.stars import equal_rows
from curation.rules_settings import DedupSettings, NearSettings
from infra.dataset import index_id, read_table
from infra.errors import SluiceError

KINDS = ("descriptor/pixels", "clip/image")
LADDER = DedupSettings(
    radius=8,
    near=(
        NearSettings(vectors=KINDS[0], threshold=0.9, floor=0.5),
        NearSettings(vectors=KINDS[1], threshold=0.8, floor=0.5),
    ),
)
ONLY_BYTES = DedupSettings(pixels=False, perceptual=False, near=())
NEAR = DedupSettings(pixels=False, perceptual=False, near=(LADDER.near[0],))


@dataclass
class Graph:
    """Rows, each of a picture (its bytes), that show pixels, that hash to a hash.

    shows[i]: the pixels of picture i; hashed[i]: the hash of pixels i; distance: bits between
    hashes; near[k]: cosines between pixels by vectors k.
    """

    pictures: list[int]
    shows: list[int]
    hashed: list[int]
    passing: list[bool]
    priority: list[float]
    distance: dict[tuple[int, int], int]
    near: tuple[dict[tuple[int, int], float], ...]

    def edges(self) -> pa.Table:
        """As EdgesWork stores them: stars of what is equal, pairs between their lowest rows."""
        rows: list[tuple[int, int, str, float]] = []
        going = list(range(len(self.pictures)))
        for kind, key in (("exact", self.bytes_of), ("pixels", self.pixels_of)):
            first: dict[int, int] = {}
            for row in going:
                first.setdefault(key(row), row)
            rows += [(first[key(row)], row, kind, 1.0) for row in going if first[key(row)] != row]
            going = sorted(first.values())
        first = {}
        for row in going:
            first.setdefault(self.hash_of(row), row)
        for row in going:
            if (centre := first[self.hash_of(row)]) != row:
                rows.append((centre, row, "perceptual", 1.0))
        for (x, y), bits in self.distance.items():
            if x in first and y in first:
                a, b = sorted((first[x], first[y]))
                rows.append((a, b, "perceptual", 1 - bits / 64))
        shown = {self.pixels_of(row): row for row in going}
        for kind, cosines in zip(KINDS, self.near, strict=True):
            for (x, y), cosine in cosines.items():
                if x in shown and y in shown:
                    a, b = sorted((shown[x], shown[y]))
                    rows.append((a, b, kind, cosine))
        columns = list(zip(*rows, strict=True)) if rows else [[], [], [], []]
        return pa.table([pa.array(column) for column in columns], schema=EDGES)

    def bytes_of(self, row: int) -> int:
        return self.pictures[row]

    def pixels_of(self, row: int) -> int:
        return self.shows[self.bytes_of(row)]

    def hash_of(self, row: int) -> int:
        return self.hashed[self.pixels_of(row)]

    def similarity(self, rung: int, a: int, b: int) -> float:
        """Of any two rows, by any rung: equal pixels are as similar as can be on the later ones."""
        if rung == 0:
            return float(self.bytes_of(a) == self.bytes_of(b))
        x, y = sorted((self.pixels_of(a), self.pixels_of(b)))
        if x == y:
            return 1.0
        if rung == 1:
            return 0.0
        if rung > 2:
            return float(np.float32(self.near[rung - 3].get((x, y), 0.0)))
        one, two = sorted((self.hashed[x], self.hashed[y]))
        bits = 0 if one == two else self.distance.get((one, two), 64)
        return 1 - bits / 64

    def choose(self, edges: pa.Table, dedup: DedupSettings) -> Duplicates:
        nodes = edge_nodes(edges)
        passing = np.array(self.passing, bool)[nodes]
        return find_duplicates(edges, nodes, passing, np.array(self.priority)[nodes], dedup)


def subset(size: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(0, size), st.integers(0, size)).filter(
        lambda pair: pair[0] < pair[1]
    )


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 10))

    def lists(value: st.SearchStrategy[Any], size: int = count) -> list[Any]:
        return draw(st.lists(value, min_size=size, max_size=size))

    cosines = st.sampled_from([0.6, 0.79, 0.8, 0.89, 0.9, 0.95, 1.0])
    return Graph(
        pictures=lists(st.integers(0, 7)),
        shows=lists(st.integers(0, 6), 8),
        hashed=lists(st.integers(0, 5), 7),
        passing=lists(st.booleans()),
        priority=lists(st.sampled_from([0.0, 1.0, 2.0, float("nan")])),
        distance=draw(st.dictionaries(subset(5), st.integers(1, 12), max_size=8)),
        near=tuple(draw(st.dictionaries(subset(6), cosines, max_size=8)) for _ in KINDS),
    )


@st.composite
def ladders(draw: st.DrawFn) -> DedupSettings:
    searches = [
        each.model_copy(update={"threshold": draw(st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]))})
        for each in LADDER.near
        if draw(st.booleans())
    ]
    return DedupSettings(
        exact=draw(st.booleans()),
        pixels=draw(st.booleans()),
        perceptual=draw(st.booleans()),
        radius=draw(st.integers(0, 12)),
        near=tuple(searches),
    )


def rungs_of(graph: Graph, dedup: DedupSettings) -> list[tuple[int, int, np.float32]]:
    """The rungs that are on: their place in `dedup`, in the graph, and their threshold."""
    places = [0, 1, 2, *(3 + KINDS.index(each.vectors) for each in dedup.near)]
    every = enumerate(zip(places, dedup.thresholds, dedup.active, strict=True))
    return [(rung, place, np.float32(least)) for rung, (place, least, on) in every if on]


def joined(graph: Graph, dedup: DedupSettings, a: int, b: int) -> bool:
    return any(graph.similarity(place, a, b) >= least for _, place, least in rungs_of(graph, dedup))


def plain_greedy(graph: Graph, dedup: DedupSettings) -> set[int]:
    """The definition, row by row over all rows."""

    def order(row: int) -> tuple[bool, float, int]:
        value = graph.priority[row]
        return (not graph.passing[row], np.inf if np.isnan(value) else -value, row)

    standing: set[int] = set()
    for row in sorted(range(len(graph.pictures)), key=order):
        if not any(joined(graph, dedup, row, other) for other in standing):
            standing.add(row)
    return standing


@settings(max_examples=300, deadline=None)
@given(graphs(), ladders())
def test_chooses_what_the_definition_says_and_certifies_it(
    graph: Graph, dedup: DedupSettings
) -> None:
    found = graph.choose(graph.edges(), dedup)
    standing = plain_greedy(graph, dedup)
    rows = set(range(len(graph.pictures)))
    assert rows - set(found.ids.tolist()) == standing
    places = {rung: (place, least) for rung, place, least in rungs_of(graph, dedup)}
    for row, twin, similarity, rung, exact, pixels in zip(
        found.ids.tolist(), found.twins.tolist(), found.similarity, found.rung.tolist(),
        found.exact, found.pixels, strict=True,
    ):  # fmt: skip
        assert twin in standing
        place, least = places[rung]
        assert similarity == graph.similarity(place, row, twin)
        assert similarity >= least
        if graph.passing[row]:  # what passes the rules goes for a row that is really kept
            assert graph.passing[twin]
        same = {other for other in rows - {row} if graph.similarity(1, row, other)}
        copies = {other for other in same if graph.similarity(0, row, other)}
        assert not exact or (copies and dedup.exact)
        assert not pixels or (same - copies and dedup.pixels)


@settings(max_examples=60, deadline=None)
@given(graphs(), ladders(), st.permutations(range(40)))
def test_the_order_of_pairs_does_not_matter(
    graph: Graph, dedup: DedupSettings, mixed: list[int]
) -> None:
    edges = graph.edges()
    order = [place for place in mixed if place < edges.num_rows]
    straight = graph.choose(edges, dedup)
    shuffled = graph.choose(edges.take(pa.array(order, pa.int64())), dedup)
    for name in Duplicates.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(straight, name), getattr(shuffled, name))


@settings(max_examples=60, deadline=None)
@given(graphs(), st.permutations(range(10)))
def test_the_order_of_rows_does_not_matter(graph: Graph, mixed: list[int]) -> None:
    """Where no two rows are equally preferred the same ones stay, wherever they stand."""
    count = len(graph.pictures)
    order = [row for row in mixed if row < count]
    ties = np.array([[row] for row in range(count)], np.uint64)
    graph.priority = preference([np.array(graph.priority)], ties).tolist()
    moved = replace(
        graph,
        pictures=[graph.pictures[row] for row in order],
        passing=[graph.passing[row] for row in order],
        priority=[graph.priority[row] for row in order],
    )
    straight = graph.choose(graph.edges(), LADDER)
    shuffled = moved.choose(moved.edges(), LADDER)
    twins = dict(zip(straight.ids.tolist(), straight.twins.tolist(), strict=True))
    ids = [order[row] for row in shuffled.ids.tolist()]
    assert twins == dict(zip(ids, [order[row] for row in shuffled.twins.tolist()], strict=True))


def pairs_of(*rows: tuple[int, int, float], rung: int = 3) -> Pairs:
    a, b, similarity = (np.array(column) for column in zip(*rows, strict=True))
    return Pairs(a, b, similarity.astype(np.float32), np.full(len(rows), rung))


def test_no_chain_drops_a_row_whose_only_neighbour_is_gone() -> None:
    # 0 - 1 - 2: 1 goes for 0, and then nothing speaks against 2
    twin, similarity, _ = greedy(pairs_of((0, 1, 0.95), (1, 2, 0.99)), np.arange(3))
    assert twin.tolist() == [-1, 0, -1]
    assert similarity[1] == np.float32(0.95)


def test_the_twin_is_the_most_similar_kept_row() -> None:
    for rung in (2, 3):
        twin, *_ = greedy(pairs_of((0, 2, 0.95), (1, 2, 0.99), rung=rung), np.arange(3))
        assert twin.tolist() == [-1, -1, 1]


def test_a_long_chain_of_rows_is_no_burden() -> None:
    count = 100_000
    chain = Pairs(
        np.arange(count - 1),
        np.arange(1, count),
        np.ones(count - 1, np.float32),
        np.full(count - 1, 3),
    )
    twin, *_ = greedy(chain, np.arange(count))
    assert (twin >= 0).sum() == count // 2


def test_exact_copies_follow_their_group() -> None:
    # rows 1 and 3 hold the same bytes; both are near row 0, which is preferred
    graph = Graph(
        [0, 1, 2, 1], [0, 1, 2], [0, 1, 2], [True] * 4, [3, 1, 1, 2], {}, ({(0, 1): 0.95}, {})
    )
    found = graph.choose(graph.edges(), LADDER)
    assert found.ids.tolist() == [1, 3]
    assert found.twins.tolist() == [0, 0]
    assert found.rung.tolist() == [3, 3]
    assert found.exact.tolist() == [True, False]


def test_every_rung_can_be_left_out() -> None:
    # bytes 0 0 1 2 3 4: pixels of 1 are those of 0, the hash of 2 is close, vectors of 3 and 4
    graph = Graph(
        [0, 0, 1, 2, 3, 4],
        [0, 0, 2, 3, 4],
        [0, 1, 2, 3, 4],
        [True] * 6,
        [0.0] * 6,
        {(0, 2): 3},
        ({(0, 3): 0.95}, {(0, 4): 0.95}),
    )
    rungs = {"exact": [1], "pixels": [1, 2], "perceptual": [1, 2, 3], "near": [1, 2, 4, 5]}
    off = {"exact": False, "pixels": False, "perceptual": False, "near": ()}
    for name, gone in rungs.items():
        dedup = LADDER.model_copy(update=off | {name: getattr(LADDER, name)})
        assert graph.choose(graph.edges(), dedup).ids.tolist() == gone
    assert not len(graph.choose(graph.edges(), DedupSettings.none()).ids)
    assert graph.choose(graph.edges(), LADDER).rung.tolist() == [0, 1, 2, 3, 4]


def test_the_order_is_by_columns_then_uid_then_bytes() -> None:
    nan = float("nan")
    columns = [np.array([1.0, nan, 2.0, 2.0, 2.0]), np.array([5.0, 9.0, 1.0, 1.0, nan])]
    uids = [f"{number:032x}" for number in (4, 3, 7, 7, 1)]
    ties = tie_words(uids, [None, None, "bb" * 32, "aa" * 32, None])
    assert np.argsort(-preference(columns, ties)).tolist() == [3, 2, 4, 0, 1]
    assert preference([], ties).argmax() == 4
    assert preference([np.empty(0)], tie_words([], [])).shape == (0,)


def test_uids_that_are_no_hex_are_ordered_as_well() -> None:
    ties = tie_words(["a cat", "a cat", "é", ""], [None] * 4)
    assert (ties[0] == ties[1]).all()
    assert len({tuple(row) for row in ties.tolist()}) == 3


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=12))
def test_copies_point_to_the_first_of_equal_words(values: list[tuple[int, int]]) -> None:
    words = np.array(values, np.uint64).reshape(-1, 2)
    first, copy = equal_rows(words)
    expected = [
        (values.index(value), row)
        for row, value in enumerate(values)
        if any(value) and values.index(value) != row
    ]
    assert sorted(zip(first.tolist(), copy.tolist(), strict=True)) == sorted(expected)


def test_words_of_one_hash_are_told_apart() -> None:
    """Whatever the hash: all rows in one run, in which three words come and go."""
    words = np.array([[1, 2], [3, 4], [1, 2], [0, 0], [5, 6], [3, 4], [0, 0], [1, 2]], np.uint64)
    keys = np.arange(8, dtype=np.uint64)
    first, copy = np.empty((2, 7), np.int64)
    count = copies(keys, np.uint64(4), words, first, copy)
    assert first[:count].tolist() == [0, 1, 0]
    assert copy[:count].tolist() == [2, 5, 7]


def unit(*rows: list[float]) -> np.ndarray:
    array = np.array(rows, float)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    return array / np.where(norms > 0, norms, 1)


def search(maker, made, dedup: DedupSettings):
    draft = edges_draft(made.url, made.digest, made.folders, dedup)
    return maker.run(draft, [ALL], EdgesWork(draft.url, made.url, made.folders, dedup))


def stored(artifact) -> list[tuple[int, int, str]]:
    edges = read_table(artifact.path(EDGES_FILE))
    return [(edge["a"], edge["b"], edge["kind"]) for edge in edges.to_pylist()]


def test_finds_pairs_across_shards_and_leaves_gaps_alone(maker) -> None:
    samples = [{"image": b"same"}, {}, {"rejected": "not_an_image"}, {}, {"image": b"same"}, {}]
    made = maker.dataset("pool", samples)  # four rows to a shard
    vectors = unit([1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0.99, 0.1], [1, 0, 0], [0, 0, 0])
    maker.score(made, "descriptor", {"x": [0] * 6}, {"pixels": vectors})
    artifact = search(maker, made, NEAR)
    assert stored(artifact) == [(0, index_id(1, 0), "exact"), (1, 3, KINDS[0])]
    edges = read_table(artifact.path(EDGES_FILE))
    assert edges["similarity"][1].as_py() == pytest.approx(0.995, abs=1e-3)
    figures = artifact.parts[0].extra
    assert figures == {"images": 5, "exact": 1, KINDS[0]: 1, "recall": {KINDS[0]: 1.0}}


PHASH = int.from_bytes(b"\x0f" * 8)
FLAT = 3  # too few bits to tell pictures apart


def test_climbs_from_bytes_to_pixels_to_hashes(maker) -> None:
    samples = [{"image": b"a"}, {"image": b"a"}, {"image": b"b"}, *[{}] * 6, {"rejected": "x"}]
    made = maker.dataset("pool", samples)
    pixels = ["aa", "aa", "aa", "bb", "cc", None, None, "dd", "ee", None]
    phash = [PHASH, PHASH, PHASH, PHASH, PHASH ^ 7, PHASH ^ 7, None, FLAT, FLAT, None]
    dhash = [1, 1, 1, 1, 1, 1, None, 1, 1, None]
    columns = {
        "pixel_sha256": pa.array([value and value * 32 for value in pixels], pa.string()),
        "phash": pa.array(phash, pa.uint64()),
        "dhash": pa.array(dhash, pa.uint64()),
    }
    maker.score(made, "hash", columns)
    artifact = search(maker, made, DedupSettings(near=()))
    first, far = index_id(0, 0), index_id(1, 0)
    assert stored(artifact) == [
        (first, 1, "exact"),
        (first, 2, "pixels"),
        (first, 3, "perceptual"),  # equal hashes: a star
        (first, far, "perceptual"),  # three bits, between the first of each
        (far, index_id(1, 1), "perceptual"),
    ]
    assert artifact.parts[0].extra == {
        "images": 9, "exact": 1, "pixels": 1, "perceptual": 3, "without_perceptual_hash": 3,
    }  # fmt: skip
    near = search(maker, made, DedupSettings(radius=2, radius_floor=2, near=()))
    assert (first, far, "perceptual") not in stored(near)


def test_both_hashes_must_be_close(maker) -> None:
    made = maker.dataset("pool", [{}, {}])
    columns = {
        "pixel_sha256": ["aa" * 32, "bb" * 32],
        "phash": pa.array([PHASH] * 2, pa.uint64()),
        "dhash": pa.array([0, 2**20 - 1], pa.uint64()),
    }
    maker.score(made, "hash", columns)
    assert stored(search(maker, made, DedupSettings(near=()))) == []


def test_a_placeholder_found_often_costs_as_many_pairs(maker) -> None:
    count = 400
    made = replace(maker, size=count).dataset("pool", [{}] * count)
    columns = {
        "pixel_sha256": [f"{number:064x}" for number in range(1, count + 1)],
        "phash": pa.array([PHASH] * count, pa.uint64()),
        "dhash": pa.array([7] * count, pa.uint64()),
    }
    replace(maker, size=count).score(made, "hash", columns)
    artifact = search(maker, made, DedupSettings(near=()))
    assert stored(artifact) == [(0, row, "perceptual") for row in range(1, count)]


def test_a_moved_threshold_needs_no_new_search() -> None:
    folders = {"descriptor": "descriptor-0123", "hash": "hash-0123"}

    def digest(
        folders: dict[str, str] = folders,
        threshold: float = 0.95,
        floor: float = 0.85,
        **changes: Any,
    ) -> str:
        near = (NearSettings(threshold=threshold, floor=floor),)
        return edges_draft("pool", "0", folders, DedupSettings(near=near, **changes)).spec.digest

    first = digest()
    assert first == digest(threshold=0.9, radius=3, priority="2", exact=False)
    assert first != digest(floor=0.7)
    assert first != digest(radius_floor=14)
    assert first != digest(after="pool@0/1") != digest(after="pool@0/2")
    assert first != digest(perceptual=False)
    assert first != digest(folders | {"descriptor": "descriptor-4567"})
    assert first != digest(folders | {"hash": "hash-4567"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"near": (NearSettings(vectors="pictures/x"),), "pixels": False, "perceptual": False},
            r"dedup\.near.*'pictures'",
        ),
        ({"near": ()}, r"dedup\.pixels.*'hash'"),
        ({"near": (), "pixels": False}, r"dedup\.perceptual.*'hash'"),
    ],
    ids=["vectors", "pixels", "perceptual"],
)
def test_an_unknown_scorer_is_refused_before_any_work(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SluiceError, match=words):
        edges_draft("pool", "0", {"clip": "clip-1"}, DedupSettings(**changes))


def test_hashes_are_those_of_the_original_bytes(maker) -> None:
    made = maker.dataset("pool", [{"image": b"a"}, {"image": b"b"}, {"image": b"a"}])
    assert stored(search(maker, made, ONLY_BYTES)) == [(0, 2, "exact")]


@pytest.mark.parametrize(
    "changes",
    [
        {"radius": 5, "radius_floor": 4},
        {"near": ({"threshold": 0.8, "floor": 0.9},)},
        {"near": ({}, {})},
    ],
    ids=["radius", "near", "twice"],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"floor|twice"):
        DedupSettings.model_validate(changes)
