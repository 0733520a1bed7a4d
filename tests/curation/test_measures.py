"""Measures against their plain definitions; the same samples give the same bytes anywhere."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.measures import cells, formulas
from curation.measures.measure import Inputs, MeasuresWork, measures_draft
from curation.measures.sample import Place, sample_vectors
from curation.measures.settings import MeasureSettings
from infra import artifacts, filesystem
from infra.artifacts import Part, Spec
from infra.dataset import ROWS, part_name, write_shard, write_table

SETTINGS = MeasureSettings.model_validate({"cells": 6, "sample": 40, "few": 3, "fit": 1000})


def directions(n: int, d: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Unit rows around a few centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, d))
    return formulas.unit(centres[rng.integers(5, size=n)] + 0.5 * rng.normal(size=(n, d)))


def test_diversity_is_the_mean_over_all_pairs() -> None:
    vectors = directions(23, 7)
    plain = [1 - vectors[i] @ vectors[j] for i in range(23) for j in range(i)]
    assert formulas.mean_cosine_distance(vectors) == pytest.approx(np.mean(plain), abs=1e-12)
    assert formulas.mean_cosine_distance(np.repeat(vectors[:1], 9, 0)) == pytest.approx(
        0, abs=1e-12
    )
    assert formulas.mean_cosine_distance(vectors[:1]) is None


def test_the_vendi_score_is_that_of_the_matrix_of_cosines() -> None:
    vectors = directions(31, 8)
    values = np.linalg.eigvalsh(vectors @ vectors.T / 31)
    values = values[values > 1e-12]
    plain = math.exp(-sum(value * math.log(value) for value in values))
    assert formulas.vendi_score(vectors) == pytest.approx(plain, rel=1e-9)
    assert formulas.vendi_score(np.repeat(vectors[:1], 9, 0)) == pytest.approx(1)
    assert formulas.vendi_score(np.eye(6)) == pytest.approx(6)  # all different
    assert formulas.vendi_score(vectors[:0]) is None


def test_cmmd_is_its_definition_pair_by_pair() -> None:
    ours, theirs = directions(13, 5), directions(11, 5, seed=1)

    def kernel(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
        return math.exp(-float(((x - y) ** 2).sum()) / (2 * 10**2))

    def within(side: npt.NDArray[np.float64]) -> float:
        n = len(side)
        pairs = [kernel(side[i], side[j]) for i in range(n) for j in range(n) if i != j]
        return sum(pairs) / (n * (n - 1))

    between = np.mean([[kernel(x, y) for y in theirs] for x in ours])
    plain = 1000 * (within(ours) + within(theirs) - 2 * between)
    assert formulas.cmmd(ours, theirs) == pytest.approx(plain, abs=1e-9)
    assert formulas.cmmd(ours, theirs[:1]) is None


def test_cmmd_of_one_distribution_is_about_nothing_and_of_opposite_poles_is_known() -> None:
    whole = directions(4000, 6)
    assert abs(formulas.cmmd(whole[::2], whole[1::2]) or 1) < 0.05
    north, south = np.tile([1.0, 0], (50, 1)), np.tile([-1.0, 0], (60, 1))
    assert formulas.cmmd(north, south) == pytest.approx(2000 * (1 - math.exp(-4 / 200)))


COUNTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40)


@given(COUNTS, st.floats(0.01, 0.99), st.integers(1, 9))
def test_shares_of_cells_are_their_plain_counts(
    counts: Sequence[tuple[int, int]], share: float, few: int
) -> None:
    pool = np.array([max(pair) for pair in counts], np.int64)
    kept = np.array([min(pair) for pair in counts], np.int64)
    there = [cell for cell in range(len(counts)) if pool[cell]]
    if not there:
        assert formulas.coverage(pool, kept) is None
        assert formulas.head_share(pool, kept, share) is None
        return
    hit = sum(kept[cell] > 0 for cell in there)
    assert formulas.coverage(pool, kept) == pytest.approx(hit / len(there))
    sparse = sum(kept[cell] < few for cell in there)
    assert formulas.sparse_share(pool, kept, few) == pytest.approx(sparse / len(there))
    rare, room = set[int](), share * pool.sum()
    for cell in sorted(there, key=lambda cell: (pool[cell], cell)):
        room -= pool[cell]
        if room < 0:
            break
        rare.add(cell)
    assert set(np.flatnonzero(formulas.tail(pool, share)).tolist()) == rare
    if kept.sum():
        tail, all_kept = sum(int(kept[cell]) for cell in rare), int(kept.sum())
        assert formulas.tail_share(pool, kept, share) == pytest.approx(tail / all_kept)
        largest = sorted(kept.tolist(), reverse=True)[: max(1, round(share * len(there)))]
        assert formulas.head_share(pool, kept, share) == pytest.approx(sum(largest) / all_kept)
    else:
        assert formulas.tail_share(pool, kept, share) is None
    assert (formulas.tail_share(pool, pool, share) or 0) <= share + 1e-9


def test_hostile_vectors_are_left_out() -> None:
    rows = np.array([[0, 0], [np.nan, 1], [np.inf, 0], [3, 4]], np.float16)
    assert np.allclose(formulas.unit(rows), [[0.6, 0.8]], atol=1e-3)
    placed = cells.assign(rows, np.eye(2, dtype=np.float32))
    assert placed["cell"].to_pylist() == [None, None, None, 1]
    none = cells.assign(rows, np.empty((0, 2), np.float32))
    assert none["cell"].null_count == 4


def test_k_means_finds_what_is_apart_and_copies_make_no_cells() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(4)
    points = formulas.unit(centres[rng.integers(4, size=400)] + 0.05 * rng.normal(size=(400, 4)))
    found = cells.centres(points.astype(np.float32), 4, 0, 50)
    assert len(found) == 4
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    own = cells.assign(points, found)["centrality"].to_numpy()
    assert own.mean() > 0.85
    equal = np.repeat(points[:1], 50, 0).astype(np.float32)
    assert len(cells.centres(equal, 4, 0, 5)) == 1
    assert len(cells.centres(equal[:0], 4, 0, 5)) == 0


# ---- the stage ----


def write_version(
    folder: Path, rows: Sequence[tuple[str, str]], vectors: npt.NDArray[np.float64], shards: int
) -> str:
    """A version of (uid, status), dealt out to shards, with vectors and similarities as scored."""
    spec = Spec("dataset", "test", {"shards": shards, "folder": folder.name})
    url = str(folder / spec.digest)
    clip = artifact_folder(url, "clip-0123456789abcdef")
    for shard in range(shards):
        mine = list(range(shard, len(rows), shards))
        table = pa.Table.from_pylist(
            [{"uid": rows[i][0], "status": rows[i][1], "sha256": f"{i:064x}", "shard": shard,
              "row": place, "caption": "", "format": "jpg"} for place, i in enumerate(mine)],
            schema=ROWS,
        )  # fmt: skip
        files = write_shard(url, shard, table, [b"x"] * len(mine))
        kept = sum(rows[i][1] == "ok" for i in mine)
        dropped = {"dropped": len(mine) - kept} if kept < len(mine) else {}
        artifacts.record_part(
            url, Part(part_name(shard), tuple(files), len(mine), kept, dropped), 0, 0
        )
        similarity = pa.table({"similarity": pa.array(vectors[mine, 0], pa.float32())})
        write_table(clip, f"columns/{part_name(shard)}.parquet", similarity)
        Path(clip, "image").mkdir(parents=True, exist_ok=True)
        np.save(f"{clip}/image/{part_name(shard)}.npy", vectors[mine].astype(np.float16))
    artifacts.commit(url, spec)
    return url


def artifact_folder(url: str, name: str) -> str:
    return f"{url}/scores/{name}"


def measured(pool: str, version: str, reference: str) -> bytes:
    """The bytes of measures.json, cells and all."""
    clip, vector = "clip-0123456789abcdef", "image"
    found = cells.cells_draft(pool, clip, vector, SETTINGS)
    part = cells.CellsWork(found.url, pool, clip, vector, SETTINGS)(None, [""])[""]
    artifacts.record_part(found.url, part, 0, 0)
    artifacts.commit(found.url, found.spec)
    draft = cells.cell_scores_draft(pool, clip, vector, SETTINGS)
    work = cells.CellScoresWork(draft.url, found.url, pool, clip, vector)
    made = artifacts.load(pool)
    assert made is not None
    for shard in (int(part.name) for part in made.parts):
        work(shard, [""])
    folder = draft.url.rpartition("/")[2]
    inputs = Inputs(version, pool, clip, folder, reference, clip)
    target = measures_draft(inputs, SETTINGS).url
    part = MeasuresWork(target, inputs, SETTINGS)(None, [""])[""]
    assert part.rows == part.kept + sum(part.dropped.values())
    return filesystem.read_bytes(f"{target}/measures.json")


def test_measures_do_not_depend_on_shards(tmp_path: Path) -> None:
    vectors = directions(120, 6)
    vectors[7] = 0  # no vector: undecodable
    uids = [f"{i:032x}" for i in range(120)]
    pool_rows = [(uid, "ok") for uid in uids]
    rows = [(uid, "ok" if i % 3 else "dropped") for i, uid in enumerate(uids)]
    reference = write_version(tmp_path / "r", pool_rows[:50], directions(50, 6, seed=2), 1)
    found = []
    for shards in (1, 4):
        pool = write_version(tmp_path / f"p{shards}", pool_rows, vectors, shards)
        version = write_version(tmp_path / f"v{shards}", rows, vectors, shards)
        found.append(measured(pool, version, reference))
    assert found[0] == found[1]
    values = json.loads(found[0])
    assert (values["rows"], values["kept"], values["scored"]) == (120, 80, 80)
    kept = [i for i in range(120) if i % 3]
    assert values["clip_score"] == pytest.approx(np.float32(vectors[kept, 0]).mean(), abs=1e-6)
    assert values["sampled"] in (39, 40)  # one of the 40 chosen may have no vector
    assert 0 < values["coverage"] <= 1


def test_an_empty_version_has_no_figures_and_does_not_fail(tmp_path: Path) -> None:
    vectors = directions(30, 4)
    uids = [f"{i:032x}" for i in range(30)]
    pool = write_version(tmp_path / "p", [(uid, "ok") for uid in uids], vectors, 2)
    version = write_version(tmp_path / "v", [(uid, "dropped") for uid in uids], vectors, 2)
    values = json.loads(measured(pool, version, pool))
    assert (values["kept"], values["coverage"]) == (0, 0)
    for name in ("clip_score", "diversity", "vendi_score", "cmmd", "tail_share", "head_share"):
        assert values[name] is None


def test_a_sample_grows_by_addition(tmp_path: Path) -> None:
    vectors = directions(60, 4)
    url = write_version(tmp_path / "p", [(f"{i:032x}", "ok") for i in range(60)], vectors, 3)
    place = Place(url, url, "clip-0123456789abcdef", "image")
    few, many = (sample_vectors(place, size, 0) for size in (10, 25))
    assert np.array_equal(few, many[:10])
    assert not np.array_equal(few, sample_vectors(place, 10, 1))
