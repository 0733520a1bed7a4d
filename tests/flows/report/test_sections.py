"""What the sections say against what the store holds."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.contamination import FOUND_BY
from curation.rules_settings import DUPLICATES, RuleSettings
from flows.report import ReportContext
from flows.report import evaluation as evaluations
from flows.report.canaries import canaries, read_key
from flows.report.duplicates import Leaks, duplicates, leaks, pairs_beside
from flows.report.funnel import funnel, rule_text
from flows.report.galleries import galleries, violation
from flows.report.provenance import provenance, settings_yaml
from flows.report.provenance import time as times
from flows.report.rungs import rungs
from flows.report.samples import Samples, clean, load_samples, spread
from flows.report.scores import Scores
from flows.report.thresholds import survivors, thresholds
from flows.report.thumbnails import thumbnails
from flows.report.training import read_metrics, training
from infra import artifacts
from infra.artifacts import Artifact, Part, Spec
from infra.charts import number
from infra.dataset import read_table

Made = tuple[str, ReportContext]


@pytest.fixture(scope="module")
def samples(made: Made) -> Samples:
    found = load_samples(made[1])
    assert found is not None
    return found


@pytest.fixture(scope="module")
def scores(samples: Samples) -> Scores:
    return Scores(samples)


def test_the_funnel_adds_up(made: Made, samples: Samples) -> None:
    found = funnel(made[1], samples.rules, samples.dedup)
    assert found is not None
    assert found.balanced
    assert found.source == "curated version"
    assert found.shards == 3
    assert found.rows == found.kept + sum(loss.count for loss in found.losses)
    assert found.kept == int(samples.kept.sum())
    reasons = [loss.reason for loss in found.losses]
    order = ["missing_image", *(rule.reason for rule in samples.rules), *DUPLICATES, "quotas"]
    assert reasons == order
    assert [loss.left for loss in found.losses][-1] == found.kept
    for loss in found.losses:
        assert loss.count == len(samples.dropped_for(loss.reason))


def test_the_funnel_of_a_pool_alone(made: Made) -> None:
    found = funnel(ReportContext(pool=made[1].pool), (), None)
    assert found is not None
    assert [(loss.reason, loss.count) for loss in found.losses] == [("missing_image", 1)]


@pytest.mark.parametrize(
    ("bounds", "text"),
    [({"min": 1}, "kept where x ≥ 1"), ({"max": 2}, "kept where x ≤ 2"),
     ({"min": 1, "max": 2}, "kept where 1 ≤ x ≤ 2")],
)  # fmt: skip
def test_a_rule_in_words(bounds: dict[str, float], text: str) -> None:
    assert rule_text(RuleSettings(reason="r", score="x", **bounds)) == text


def test_galleries_show_both_sides_of_a_threshold(
    made: Made, samples: Samples, scores: Scores
) -> None:
    counts = funnel(made[1], samples.rules, samples.dedup)
    assert counts is not None
    found = {gallery.reason: gallery for gallery in galleries(samples, counts, scores)}
    values = scores.values["mismatched_caption"]
    strips = {strip.title: strip.tiles for strip in found["mismatched_caption"].strips}
    shown = {
        title: [values[samples.positions[tile.uid]] for tile in tiles]
        for title, tiles in strips.items()
    }
    (dropped,) = (v for title, v in shown.items() if title.startswith(("Just dropped", "All")))
    assert dropped == sorted(dropped, reverse=True)
    assert all(value < 0.1 for value in dropped)
    assert shown["Just kept"] == sorted(shown["Just kept"])
    assert shown["Just kept"][0] == values[samples.kept].min() >= 0.1
    assert found["corrupt"].strips[0].tiles[0].place is not None  # its bytes are there, broken
    assert found["missing_image"].strips[0].tiles[0].place is None


def test_leaks_stand_beside_the_held_out_picture(
    made: Made, samples: Samples, scores: Scores
) -> None:
    counts = funnel(made[1], samples.rules, samples.dedup)
    assert counts is not None
    found = {gallery.reason: gallery for gallery in galleries(samples, counts, scores)}
    strips = {strip.title: strip.pairs for strip in found["evaluation_leak"].strips}
    assert set(strips) == {"Dropped, at random", "Just dropped", "Just kept"}
    for held_out, leak in strips["Just dropped"]:
        assert held_out.place is not None
        assert held_out.place.url == made[1].held_out
        uri = thumbnails([held_out.place, leak.place or held_out.place])
        assert len(set(uri.values())) == 1  # the same picture
    assert [tile.note for pair in strips["Just kept"] for tile in pair][:2] == ["held out", "kept"]


def test_violation_grows_away_from_the_bounds() -> None:
    rule = RuleSettings(reason="r", score="x", min=1, max=3)
    beyond = violation(np.array([0.0, 1.0, 2.0, 3.0, 5.0, np.nan]), rule)
    assert beyond[:5].tolist() == [1.0, 0.0, -1.0, 0.0, 2.0]
    assert np.isnan(beyond[5])


def test_duplicates_have_kept_twins(samples: Samples) -> None:
    found = duplicates(samples)
    assert found is not None
    assert found.recall == 1.0
    assert found.dropped == sum(len(samples.dropped_for(reason)) for reason in DUPLICATES)
    assert sum((size - 1) * count for size, count in found.sizes) == found.dropped
    assert [group.size for group in found.groups] == sorted(
        (group.size for group in found.groups), reverse=True
    )
    for group in found.groups:
        assert samples.kept[samples.positions[group.kept.uid]]
        for tile in group.members:
            assert samples.twin[samples.positions[tile.uid]] == group.kept.uid


def test_leaks_are_counted_for_each_evaluation_set(tmp_path: Path) -> None:
    spec = Spec("scores", "curation.contamination", {})
    url = str(tmp_path / "contamination-0")
    counts = dict.fromkeys(FOUND_BY, 1)
    for shard in ("00000", "00001"):
        hits = {"evaluation": counts, "imagenet": counts | {"exact": 3, "any": 4}}
        artifacts.record_part(url, Part(shard, (), 5, 5, extra={"hits": hits}), 0, 0)
    artifacts.commit(url, spec)
    found = leaks(ReportContext(scores={"contamination": url}))
    assert found == [Leaks("evaluation", 2, 2, 2, 2, 2), Leaks("imagenet", 6, 2, 2, 2, 8)]
    assert leaks(ReportContext()) == []


def test_pairs_beside_a_threshold_come_closest_first(samples: Samples) -> None:
    edges = read_table(f"{samples.context.edges}/edges.parquet")
    near, threshold = samples.dedup.near[0].vectors, samples.dedup.near[0].threshold
    below, above = pairs_beside(samples, edges.filter(pc.field("kind") == near), threshold, 5)
    assert 0 < len(below) <= 5 and 0 < len(above) <= 5
    for found, reverse in ((below, True), (above, False)):
        similarities = [similarity for _, _, similarity in found]
        assert similarities == sorted(similarities, reverse=reverse)
    assert all(similarity < threshold and samples.kept[[a, b]].all() for a, b, similarity in below)
    assert all(similarity >= threshold for *_, similarity in above)
    assert all(samples.kept[[a, b]].sum() == 1 for a, b, _ in above)


@given(
    st.lists(st.floats(-5, 5) | st.just(float("nan")), min_size=1, max_size=30),
    st.lists(st.floats(-5, 5), min_size=1, max_size=8),
)
def test_survivors_are_counted_as_the_rules_do(values: list[float], grid: list[float]) -> None:
    column, tried = np.array(values), np.array(sorted(grid))
    at_least = [(column >= threshold).sum() / len(column) for threshold in tried]
    at_most = [(column <= threshold).sum() / len(column) for threshold in tried]
    assert survivors(column, tried, "min").tolist() == pytest.approx(at_least)
    assert survivors(column, tried, "max").tolist() == pytest.approx(at_most)


def test_every_bound_has_a_curve(samples: Samples, scores: Scores) -> None:
    found = thresholds(samples, scores, {})
    keys = [f"curate.rules.{name}.min" for name in ("too_small", "blank")]
    keys += ["curate.rules.evaluation_leak.max", "curate.rules.mismatched_caption.min"]
    assert [threshold.change for threshold in found] == keys
    assert f">{number(0.1)}</text>" in found[-1].chart
    assert [threshold.meaning for threshold in found] == [
        "rows.height: pixels; rows.width: pixels", "bits", "", "nats, higher is better",
    ]  # fmt: skip


def test_samples_by_score_on_both_sides_of_every_bound(samples: Samples, scores: Scores) -> None:
    for item in thresholds(samples, scores, {}):
        rule = next(rule for rule in samples.rules if f".{rule.reason}." in item.change)
        values = scores.values[rule.reason]
        passes = values >= rule.min if rule.min is not None else values <= rule.max
        assert item.share == pytest.approx(passes.mean())
        shown = [values[samples.positions[t.uid]] for step in item.steps for t in step.tiles]
        assert shown == sorted(shown)
        assert {step.kept for step in item.steps} == {True, False}
        shares = [step.share for step in item.steps]
        assert shares == sorted(shares, reverse=rule.min is not None)
        assert all(tile.place is not None for step in item.steps for tile in step.tiles)


def test_every_rung_with_a_threshold_has_a_curve_and_pairs(
    samples: Samples, scores: Scores
) -> None:
    found = rungs(samples, scores)
    near = [f"curate.dedup.near.{place}.threshold" for place in (0, 1)]
    assert [rung.change for rung in found] == ["curate.dedup.radius", *near]
    for rung, mark in zip(found, ("8", "0.95", "0.97"), strict=True):
        assert f">{mark}</text>" in rung.chart
        strips = {strip.title: strip.pairs for strip in rung.strips}
        assert {tile.note for pair in strips["Just far enough apart"] for tile in pair} == {"kept"}
        for first, second in strips["Just close enough"]:
            assert {first.note, second.note} == {"kept", "dropped"}
    assert rungs(replace(samples, context=replace(samples.context, edges=None)), scores) == []


def test_a_sampled_pool_has_pairs_without_a_curve(samples: Samples, scores: Scores) -> None:
    part = replace(samples, shards=samples.shards[:2])
    found = rungs(part, scores)
    assert len(found) == 3 and not any(rung.chart for rung in found)
    assert all(rung.strips for rung in found)


def test_canaries_name_the_mistakes(made: Made, samples: Samples, scores: Scores) -> None:
    found = canaries(samples, read_key(made[1], samples), scores.values)
    assert found is not None
    rows = {row.defect: row for row in found.rows}
    assert sum(row.planted for row in found.rows) == found.planted
    assert rows["corrupt"].recall == rows["corrupt"].precision == 1.0
    assert not rows["corrupt"].missed
    near = rows["near_duplicate"]
    assert near.recall < 1
    assert 0 < len(near.missed) <= near.planted - near.caught
    for tile in near.missed:
        assert samples.kept[samples.positions[tile.uid]]


def test_a_large_pool_is_sampled_evenly() -> None:
    shards = list(range(1000))
    chosen = spread(shards, [1000] * 1000, limit=50_000)
    assert len(chosen) == 50
    assert {b - a for a, b in itertools.pairwise(chosen)} == {20}
    assert spread(shards[:7], [10] * 7, limit=50_000) == shards[:7]


def test_some_shards_alone(monkeypatch: pytest.MonkeyPatch, made: Made) -> None:
    monkeypatch.setattr(spread, "__defaults__", (100,))
    found = load_samples(made[1])
    assert found is not None
    assert len(found.shards) == 1
    assert not found.whole
    key = read_key(made[1], found)
    assert key is not None
    assert set(key["uid"].to_pylist()) <= set(found.uid)
    Scores(found).values  # noqa: B018


@given(st.text(max_size=400))
def test_captions_are_one_short_printable_line(text: str) -> None:
    shown = clean(text)
    assert len(shown) <= 160
    assert shown == "" or shown.isprintable()


def test_training_groups_runs_by_objective(made: Made) -> None:
    found = training(made[1])
    assert found is not None
    assert [run.objective for run in found.runs] == ["clip", "clip", "clip", "dino", "mae"]
    assert len(found.charts) == 3
    assert all(run.samples == 38_400 and run.last < run.first for run in found.runs)


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    lines = [json.dumps({"samples": 1, "loss": 2.0}), '{"samples": 2, "lo', "[1]", '{"loss": null}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert read_metrics(str(tmp_path / "metrics.jsonl")) == [{"samples": 1, "loss": 2.0}]


@pytest.mark.parametrize(("gain", "verdict"), [(0.08, "yes"), (0.01, "unclear"), (-0.08, "no")])
def test_the_answer_is_what_the_interval_says(
    tmp_path: Path, make_evaluation: Callable[..., Artifact], gain: float, verdict: str
) -> None:
    context = ReportContext(evaluation=make_evaluation(str(tmp_path), gain).url)
    found = evaluations.answer(context, evaluations.evaluation(context), {})
    assert found.verdict == verdict
    assert found.gain == f"{evaluations.signed(gain)} points"


def test_the_answer_says_whether_the_compute_was_equal(made: Made) -> None:
    results = evaluations.evaluation(made[1])
    equal = evaluations.answer(made[1], results, {"clip": 3840, "raw": 3840})
    assert equal.sentence.endswith(", at the same 3,840 samples seen.")
    unequal = evaluations.answer(made[1], results, {"clip": 3840, "raw": 128})
    assert unequal.sentence.endswith("not the same compute.")
    assert equal.beside.startswith(
        "Other tasks: k-nearest neighbours +8.0\u00a0points (+5.0 to +11.0);"
    )


def test_the_answer_over_seeds(tmp_path: Path, make_evaluation: Callable[..., Artifact]) -> None:
    context = ReportContext(evaluation=make_evaluation(str(tmp_path), 0.05, seeds=True).url)
    results = evaluations.evaluation(context)
    found = evaluations.answer(context, results, {})
    assert found.verdict == "yes"
    assert "2 seeds" in found.interval
    assert results is not None
    assert results.encoders[-2:] == ["pixels", "random"]
    unasked = replace(context, compare="another")
    assert evaluations.answer(unasked, results, {}).verdict == "unknown"


def test_time_tells_this_run_from_the_store(made: Made) -> None:
    found = times(made[1])
    assert found is not None
    steps = made[1].steps
    assert found.seconds == pytest.approx(sum(s.seconds for s in steps if not s.from_store))
    assert found.stored == sum(step.from_store for step in steps)
    assert max(step.share for step in found.steps) == 1.0


def test_provenance_names_parents(made: Made) -> None:
    store, context = made
    found = {ancestor.name: ancestor for ancestor in provenance(store, context)}
    assert found["curated version"].parents[:2] == [
        (found["pool"].digest, "pool"),
        (found["verdicts"].digest, "verdicts"),
    ]
    assert not found["pool"].url.startswith(store)


def test_settings_are_yaml_of_plain_values() -> None:
    text = settings_yaml({"a": (1, 2), "path": Path("x"), "b": {"c": None}})
    assert text == "a:\n- 1\n- 2\npath: x\nb:\n  c: null\n"
