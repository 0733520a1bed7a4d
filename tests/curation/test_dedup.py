from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.dedup import (
    EDGES,
    Duplicates,
    Pairs,
    edge_nodes,
    find_duplicates,
    greedy,
    preference,
    tie_words,
)
from curation.rules_settings import DedupSettings, NearSettings

KINDS = ("descriptor/pixels", "clip/image")
LADDER = DedupSettings(
    radius=8,
    near=(
        NearSettings(vectors=KINDS[0], threshold=0.9, floor=0.5),
        NearSettings(vectors=KINDS[1], threshold=0.8, floor=0.5),
    ),
)


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
