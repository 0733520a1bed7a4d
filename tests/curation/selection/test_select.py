"""The stage: conservation, reasons, determinism, and what others make of it."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation import sql
from curation.explain import explain, format_explanation
from curation.selection.balance import effective, held
from curation.selection.rows import parse
from curation.selection.select import SELECTION, check_plan, selection_draft
from curation.selection.settings import SelectionSettings
from infra.artifacts import verify
from infra.dataset import open_dataset
from infra.errors import SluiceError
from tests.curation.conftest import Maker, uid_of

WORDS = (
    "dog",
    "cat",
    "dog and cat",
    "nothing of note",
    "",
    "dog",
    "dog",
    "dog.",
    "a dog, big",
    "DOG",
)


@pytest.fixture
def entries(tmp_path: Path) -> str:
    path = tmp_path / "entries.json"
    path.write_text(json.dumps(["dog", "cat", "owl"]))
    return str(path)


@pytest.fixture
def made(maker):
    samples = [{"caption": word} for word in WORDS]
    samples += [{"width": 8, "caption": "dog"}, {"rejected": "not_an_image"}]
    made = maker.dataset("pool", samples)
    maker.score(made, "clip", {"similarity": pa.array([i / 12 for i in range(12)])})
    return made


def plan(entries: str) -> list[dict]:
    return [
        {"kind": "concepts", "entries": entries, "t": 2},
        {"kind": "quotas", "by": "rows.caption", "most": 1},
    ]


def test_every_kept_verdict_is_selected_or_has_a_reason(selecting, made, entries) -> None:
    artifact = selecting.select(made, *plan(entries))
    table = selecting.table(artifact.url, made)
    assert table.schema.equals(SELECTION)
    rows = table.to_pylist()
    assert len(rows) == 12
    kept = selecting.table(selecting.verdicts(made).url, made)["kept"].to_pylist()
    for row, keep in zip(rows, kept, strict=True):
        assert (row["reason"] is None) == (row["selected"] or not keep)
        assert (row["probability"] is None) == (not keep)
        assert keep or not (row["selected"] or row["cells"])
    counts = Counter(row["reason"] for row in rows if row["reason"])
    totals = artifact.totals
    assert (totals["rows"], totals["kept"]) == (10, sum(row["selected"] for row in rows))
    assert totals["dropped"] == dict(sorted(counts.items()))
    assert counts["no_concept"] == 3  # a text of no entry, an empty one, one of another case
    assert verify(artifact) == []


def test_figures_tell_the_expected_and_the_realised_size(selecting, made, entries) -> None:
    (part,) = selecting.select(made, *plan(entries)).parts
    concepts, quotas = part.extra["selectors"]
    # dog 6 times, cat twice: p = 1/3 and 1; four texts of "dog" alone
    assert concepts["expected"] == pytest.approx(2 + 5 / 3, abs=1e-3)
    assert concepts["rows"] == 10 and quotas["rows"] == concepts["realised"]
    assert quotas["expected"] == quotas["realised"] == part.kept
    assert concepts["cells"][0] == 2 and concepts["largest"][0][:2] == ["dog", 5]
    assert concepts["no_concept"] == 3
    assert concepts["plan"]["cells"] == 2 and concepts["plan"]["held"][-1] == 1
    assert quotas["plan"]["held"] == quotas["held"][1]


def test_the_answer_does_not_depend_on_shards(maker, selecting, entries, tmp_path) -> None:
    def selected(size: int) -> dict[str, tuple]:
        made = Maker(str(tmp_path / str(size)), size).dataset(
            "pool", [{"caption": WORDS[i % len(WORDS)]} for i in range(60)]
        )
        artifact = selecting.select(made, *plan(entries), {"kind": "top", "fraction": 0.5})
        rows = selecting.table(artifact.url, made).to_pylist()
        return {row["uid"]: (row["selected"], row["reason"], row["probability"]) for row in rows}

    assert selected(7) == selected(60)


def test_the_seed_and_the_entries_are_part_of_the_name(made, entries) -> None:
    def digest(path: str, seed: int = 0) -> str:
        settings = SelectionSettings.model_validate({"plan": plan(path), "seed": seed})
        draft = selection_draft(made.url, made.digest, made.folders, "0" * 16, settings)
        return draft.spec.digest

    moved = Path(entries).with_name("moved.json")
    moved.write_bytes(Path(entries).read_bytes())
    assert digest(str(moved)) == digest(entries) != digest(entries, 1)
    moved.write_text('["dog"]')
    assert digest(str(moved)) != digest(entries)


def test_the_curated_version_holds_what_was_selected(selecting, made, entries) -> None:
    artifact = selecting.select(made, *plan(entries))
    curated = selecting.curate(made, artifact)
    assert curated.settings["selection"] == artifact.digest
    rows = selecting.table(artifact.url, made)
    opened = open_dataset(made.store, "curated")
    shards = [int(part.name) for part in curated.parts]
    there = [(shard, sample.row) for shard in shards for sample in opened.samples(shard)]
    rows = rows.filter(rows["selected"])
    assert there == list(zip(rows["shard"].to_pylist(), rows["row"].to_pylist(), strict=True))
    dropped = curated.totals["dropped"]
    assert dropped == {**artifact.totals["dropped"], "small": 1, "not_an_image": 1}
    assert curated.totals["rows"] == 12


def test_without_a_selection_nothing_changes(selecting, made) -> None:
    artifact = selecting.curate(made, None)
    assert "selection" not in artifact.settings
    assert artifact.totals["kept"] == 10


def test_explain_names_the_selector_its_cells_and_the_probability(selecting, made, entries) -> None:
    artifact = selecting.select(made, *plan(entries))
    selecting.curate(made, artifact)
    rows = selecting.table(artifact.url, made).to_pylist()
    out = next(row for row in rows if row["reason"] == "concepts")
    (found,) = explain(made.store, out["uid"])
    assert (found.state, found.reasons) == ("dropped", ("concepts",))
    text = format_explanation([found])
    assert "not selected, with probability 0.3333" in text and "fell in       dog" in text
    (small,) = explain(made.store, uid_of(10))
    assert small.reasons == ("small",) and small.selection is None
    (kept,) = explain(made.store, next(row["uid"] for row in rows if row["selected"]))
    assert kept.state == "kept" and kept.selection is not None and kept.selection.selected


OVER_VECTORS = [
    {"kind": "clusters", "levels": [3, 2], "target": 2},
    {"kind": "density", "clusters": 2, "target": 2},
    {"kind": "quantization", "target": 2},
]


def test_nothing_is_kept_by_the_verdicts(maker, selecting, entries) -> None:
    made = maker.dataset("pool", [{"width": 8}] * 3)
    maker.score(made, "clip", {"fine": [True] * 3}, {"image": np.eye(3)})
    whole = (*plan(entries), {"kind": "top", "target": 5}, *OVER_VECTORS)
    artifact = selecting.select(made, *whole)
    assert (artifact.totals["rows"], artifact.totals["kept"]) == (0, 0)


@pytest.mark.parametrize("selector", OVER_VECTORS, ids=lambda selector: selector["kind"])
def test_rows_without_vectors_and_rows_all_alike(maker, selecting, selector) -> None:
    made = maker.dataset("pool", [{}] * 9)
    vectors = np.zeros((9, 4))
    maker.score(made, "clip", {"fine": [True] * 9}, {"image": vectors})
    artifact = selecting.select(made, selector)
    assert artifact.totals["dropped"] == {"no_vector": 9}
    (part,) = selecting.select(made, selector | {"missing": "keep"}).parts
    assert part.kept == 9 and part.extra["selectors"][0]["no_vector"] == 9
    vectors[:], vectors[8] = 0.5, np.nan
    maker.score(made, "clip", {"fine": [True] * 9}, {"image": vectors})
    artifact = selecting.select(made, selector)
    assert artifact.totals["dropped"] == {"no_vector": 1, selector["kind"]: 6}
    more = selecting.select(made, selector | {"target": 100})
    assert more.totals["kept"] == 8


def test_a_score_that_is_no_number_is_never_on_top(maker, selecting) -> None:
    made = maker.dataset("pool", [{}] * 5)
    maker.score(made, "clip", {"s": pa.array([1.0, None, float("nan"), 3.0, float("inf")])})
    artifact = selecting.select(made, {"kind": "top", "score": "clip.s", "target": 4})
    assert selecting.table(artifact.url, made)["reason"].to_pylist() == [
        None, "no_value", "no_value", None, "no_value",
    ]  # fmt: skip
    (part,) = artifact.parts
    assert part.extra["selectors"][0]["threshold"] == 1


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://www.Example.org:8080/a.jpg?b", "example.org"),
        ("http://user:pass@img.example.org#x", "img.example.org"),
        ("no url", ""),
        ("https://", ""),
    ],
)
def test_the_domain_of_a_url(url: str, domain: str) -> None:
    parsed = parse("test", "domain", ["rows.url"])
    table = pa.table({"rows.url": [url]})
    found = sql.query(f"SELECT {parsed.sql} AS x FROM t", table, [parsed])
    assert found["x"].to_pylist() == [domain]


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ({"kind": "quotas", "by": "rows.captoin", "most": 1}, "rows.caption"),
        ({"kind": "top", "score": "clip.similarty", "target": 1}, "clip.similarity"),
        ({"kind": "top", "score": "rows.caption", "target": 1}, "not a number"),
    ],
)
def test_what_is_not_there_is_told_before_any_work(selector: dict, words: str) -> None:
    settings = SelectionSettings.model_validate({"plan": [selector]})
    schemas = {
        "rows": pa.schema([("caption", pa.string())]),
        "clip": pa.schema([("similarity", pa.float32())]),
    }
    with pytest.raises(SluiceError, match=words):
        check_plan(settings, schemas, ["clip/image"])


def test_what_the_largest_cells_hold() -> None:
    assert held(np.array([5, 5, 5])) == pytest.approx(np.arange(1, 21) / 20, abs=1e-4)
    # 10 cells of 91, 1, 1, ...: the largest tenth holds 91 %, half of that at half of it
    found = held(np.array([1] * 5 + [91] + [1] * 4))
    assert found[:4] == pytest.approx([0.455, 0.91, 0.915, 0.92]) and found[-1] == 1
    assert held(np.zeros(3, int)) == []


def test_effective_number_of_cells() -> None:
    assert effective(np.array([5, 5, 5, 5])) == 4
    assert effective(np.array([9, 0, 0])) == 1
    assert 1 < effective(np.array([9, 1])) < 2
    assert effective(np.array([], int)) == 1


@pytest.mark.parametrize(
    "selector",
    [
        {"kind": "clusters", "levels": [20, 5], "fraction": 0.25, "sample": 150},
        {"kind": "clusters", "levels": [20], "target": 50, "leaves": "closest"},
        {"kind": "density", "clusters": 8, "fraction": 0.25},
        {"kind": "quantization", "fraction": 0.25, "cell_size": 30},
        {"kind": "retrieval", "reference": "reference.npy", "neighbours": 20},
        {"kind": "retrieval", "reference": "reference.npy", "cells": 9},
    ],
    ids=lambda selector: "-".join(map(str, selector.values())).replace(" ", ""),
)
def test_vectors_are_selected_alike_in_any_order(
    selector, selecting, tmp_path, monkeypatch
) -> None:
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(200, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[5] = 0
    vectors[50:60] = vectors[49]
    np.save(tmp_path / "reference.npy", vectors[100:103])
    monkeypatch.chdir(tmp_path)

    def selected(size: int, order: np.ndarray) -> set[str]:
        maker = Maker(str(tmp_path / f"{size}-{order[0]}"), size)
        made = maker.dataset("pool", [{"uid": uid_of(number)} for number in order])
        maker.score(made, "clip", {"fine": [True] * 200}, {"image": vectors[order]})
        artifact = selecting.select(made, selector)
        table = selecting.table(artifact.url, made)
        return set(table.filter(table["selected"])["uid"].to_pylist())

    found = selected(200, np.arange(200))
    assert found == selected(33, np.arange(200)[::-1])
    if "neighbours" not in selector and "cells" not in selector:
        assert len(found) == 50
