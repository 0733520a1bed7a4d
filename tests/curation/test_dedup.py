from dataclasses import dataclass

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
    edge_nodes,
    edges_draft,
    exact_leaders,
    find_duplicates,
    greedy,
)
from curation.rules_settings import DedupSettings
from infra.dataset import index_id, read_table
from infra.errors import SluiceError

NEAR = DedupSettings(near=0.9, floor=0.5)


@dataclass
class Graph:
    """Rows with hashes, whether they pass, their priority; pairs of groups with similarities."""

    groups: list[int]
    passing: list[bool]
    priority: list[float]
    near: dict[tuple[int, int], float]

    def edges(self) -> pa.Table:
        """As EdgesWork stores them: stars of equal bytes, pairs between their lowest rows."""
        leader = {group: self.groups.index(group) for group in set(self.groups)}
        rows = [
            (leader[group], row, "exact", 1.0)
            for row, group in enumerate(self.groups)
            if row != leader[group]
        ]
        for (x, y), similarity in self.near.items():
            if x in leader and y in leader and x != y:
                a, b = sorted((leader[x], leader[y]))
                rows.append((a, b, "near", similarity))
        columns = list(zip(*rows, strict=True)) if rows else [[], [], [], []]
        return pa.table([pa.array(column) for column in columns], schema=EDGES)

    def similarity(self, a: int, b: int) -> float:
        """What EdgesWork would have stored for any two rows."""
        x, y = self.groups[a], self.groups[b]
        return 1.0 if x == y else np.float32(self.near.get((min(x, y), max(x, y)), 0.0))

    def choose(self, edges: pa.Table, dedup: DedupSettings) -> Duplicates:
        nodes = edge_nodes(edges)
        passing = np.array(self.passing, bool)[nodes]
        return find_duplicates(edges, nodes, passing, np.array(self.priority)[nodes], dedup)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 10))
    groups = draw(st.lists(st.integers(0, 6), min_size=count, max_size=count))
    passing = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    priority = draw(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, float("nan")]), min_size=count, max_size=count)
    )
    pairs = st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda pair: pair[0] < pair[1])
    near = draw(st.dictionaries(pairs, st.sampled_from([0.6, 0.89, 0.9, 0.95, 1.0]), max_size=12))
    return Graph(groups, passing, priority, near)


def plain_greedy(graph: Graph, threshold: float) -> set[int]:
    """The definition, row by row over all rows."""

    def preference(row: int) -> tuple[bool, float, int]:
        value = graph.priority[row]
        return (not graph.passing[row], np.inf if np.isnan(value) else -value, row)

    standing: set[int] = set()
    for row in sorted(range(len(graph.groups)), key=preference):
        if all(graph.similarity(row, other) < np.float32(threshold) for other in standing):
            standing.add(row)
    return standing


@settings(max_examples=120, deadline=None)
@given(graphs(), st.sampled_from([0.5, 0.9, 0.95, 1.0]))
def test_chooses_what_the_definition_says_and_certifies_it(graph: Graph, near: float) -> None:
    dedup = NEAR.model_copy(update={"near": near})
    found = graph.choose(graph.edges(), dedup)
    standing = plain_greedy(graph, near)
    assert set(range(len(graph.groups))) - set(found.ids.tolist()) == standing
    for row, twin, similarity, exact, close in zip(
        found.ids.tolist(), found.twins.tolist(), found.similarity, found.exact, found.near,
        strict=True,
    ):  # fmt: skip
        assert twin in standing
        assert similarity == pytest.approx(graph.similarity(row, twin))
        assert similarity >= np.float32(near) if close else similarity == 1
        assert exact or close
        if graph.passing[row]:  # what passes the rules goes for a row that is really kept
            assert graph.passing[twin]
        same = [other for other, group in enumerate(graph.groups) if group == graph.groups[row]]
        assert not exact or len(same) > 1


@settings(max_examples=40, deadline=None)
@given(graphs(), st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(graph: Graph, random: object) -> None:
    edges = graph.edges()
    order = list(range(edges.num_rows))
    random.shuffle(order)  # type: ignore[attr-defined]
    straight, mixed = (
        graph.choose(edges, NEAR),
        graph.choose(edges.take(pa.array(order, pa.int64())), NEAR),
    )
    for name in ("ids", "twins", "similarity", "exact", "near"):
        np.testing.assert_array_equal(getattr(straight, name), getattr(mixed, name))


def test_no_chain_drops_a_row_whose_only_neighbour_is_gone() -> None:
    # 0 - 1 - 2: 1 goes for 0, and then nothing speaks against 2
    pairs = np.array([0, 1]), np.array([1, 2])
    twin, similarity = greedy(*pairs, np.array([0.95, 0.99], np.float32), np.arange(3))
    assert twin.tolist() == [-1, 0, -1]
    assert similarity[1] == np.float32(0.95)


def test_the_twin_is_the_most_similar_kept_row() -> None:
    pairs = np.array([0, 1]), np.array([2, 2])
    twin, _ = greedy(*pairs, np.array([0.95, 0.99], np.float32), np.arange(3))
    assert twin.tolist() == [-1, -1, 1]


def test_a_long_chain_of_rows_is_no_burden() -> None:
    count = 100_000
    pairs = np.arange(count - 1), np.arange(1, count)
    twin, _ = greedy(*pairs, np.ones(count - 1, np.float32), np.arange(count))
    assert (twin >= 0).sum() == count // 2


def test_exact_copies_follow_their_group() -> None:
    # rows 1 and 3 hold the same bytes; both are near row 0, which is preferred
    graph = Graph([0, 1, 2, 1], [True] * 4, [3, 1, 1, 2], {(0, 1): 0.95})
    found = graph.choose(graph.edges(), NEAR)
    assert found.ids.tolist() == [1, 3]
    assert found.twins.tolist() == [0, 0]
    assert found.near.tolist() == [True, True]
    assert found.exact.tolist() == [True, False]


@pytest.mark.parametrize(("exact", "near", "dropped"), [(True, None, 1), (False, None, 0)])
def test_steps_can_be_left_out(exact: bool, near: float | None, dropped: int) -> None:
    graph = Graph([0, 0, 1], [True] * 3, [0, 0, 0], {(0, 1): 1.0})
    found = graph.choose(graph.edges(), DedupSettings(exact=exact, near=near))
    assert len(found.ids) == dropped


def test_without_the_exact_step_copies_are_near_duplicates() -> None:
    graph = Graph([0, 0], [True] * 2, [0, 0], {})
    found = graph.choose(graph.edges(), DedupSettings(exact=False, near=0.95))
    assert (found.exact.tolist(), found.near.tolist()) == ([False], [True])


@given(st.lists(st.integers(0, 4), max_size=12))
def test_leaders_are_the_first_of_equal_hashes(values: list[int]) -> None:
    hashes = np.array([[value, 7] for value in values], np.uint64).reshape(-1, 2)
    ids = np.arange(len(values)) * 3 + 5
    assert exact_leaders(ids, hashes).tolist() == [5 + 3 * values.index(value) for value in values]


def unit(*rows: list[float]) -> np.ndarray:
    array = np.array(rows, float)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    return array / np.where(norms > 0, norms, 1)


def test_finds_pairs_across_shards_and_leaves_gaps_alone(maker) -> None:
    samples = [{"image": b"same"}, {}, {"rejected": "not_an_image"}, {}, {"image": b"same"}, {}]
    made = maker.dataset("pool", samples)  # four rows to a shard
    vectors = unit([1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0.99, 0.1], [1, 0, 0], [0, 0, 0])
    maker.score(made, "descriptor", {"x": [0] * 6}, {"pixels": vectors})
    dedup = DedupSettings(near=0.95, floor=0.9)
    draft = edges_draft(made.url, made.digest, made.folders, dedup)
    work = EdgesWork(draft.url, made.url, made.folders, dedup)
    artifact = maker.run(draft, [ALL], work)
    edges = read_table(artifact.path(EDGES_FILE))
    assert edges.select(["a", "b", "kind"]).to_pylist() == [
        {"a": 0, "b": index_id(1, 0), "kind": "exact"},
        {"a": 1, "b": 3, "kind": "near"},
    ]
    assert edges["similarity"][1].as_py() == pytest.approx(0.995, abs=1e-3)
    figures = artifact.parts[0].extra
    assert figures == {"images": 5, "exact": 1, "near": 1, "recall": 1.0}


def test_a_moved_threshold_needs_no_new_search() -> None:
    folders = {"descriptor": "descriptor-0123"}
    one, two = (
        edges_draft("pool", "0", folders, DedupSettings(near=near, priority=priority))
        for near, priority in ((0.9, "1"), (0.99, "2"))
    )
    assert one.spec.digest == two.spec.digest
    moved = edges_draft("pool", "0", folders, DedupSettings(floor=0.7))
    assert moved.spec.digest != one.spec.digest
    rescored = edges_draft("pool", "0", {"descriptor": "descriptor-4567"}, DedupSettings())
    assert rescored.spec.digest != one.spec.digest


def test_an_unknown_descriptor_is_refused_before_any_work() -> None:
    with pytest.raises(SluiceError, match=r"dedup\.descriptor.*'pictures'"):
        edges_draft("pool", "0", {"clip": "clip-1"}, DedupSettings(descriptor="pictures/x"))


def test_hashes_are_those_of_the_original_bytes(maker) -> None:
    made = maker.dataset("pool", [{"image": b"a"}, {"image": b"b"}, {"image": b"a"}])
    dedup = DedupSettings(near=None)
    draft = edges_draft(made.url, made.digest, {}, dedup)
    artifact = maker.run(draft, [ALL], EdgesWork(draft.url, made.url, {}, dedup))
    assert read_table(artifact.path(EDGES_FILE))["b"].to_pylist() == [2]
