"""Shares of sources that change over a run."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.recipe import EncoderSettings
from infra import artifacts
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from pretrain.__main__ import _share
from pretrain.data import Batch, Source, Stream
from pretrain.job import Job
from pretrain.loop import run
from pretrain.mix import Mix, Weight, counts, fault, shares, weight_at
from pretrain.ranks import Flags, Ranks
from pretrain.run import run_draft, train
from pretrain.seen import seen
from tests.pretrain.test_loop import StoppedError, files, go, stop_at

SAMPLES = 100
NUMBER = st.floats(0, 5, allow_subnormal=False)
KNOTS = st.dictionaries(st.integers(0, 10), NUMBER, min_size=1, max_size=4).map(
    lambda found: tuple((at / 10, found[at]) for at in sorted(found))
)
WEIGHTS = st.lists(NUMBER | KNOTS, min_size=1, max_size=6).filter(lambda each: not fault(each))
FALL: tuple[Weight, Weight] = (1.0, ((0.2, 3.0), (0.8, 0.0)))  # of pairs and of greys


@given(WEIGHTS)
def test_what_is_due_is_the_integral_of_the_shares(weights: list[Weight]) -> None:
    made = shares(weights)
    mix = Mix(made, SAMPLES)
    marks = {at for weight in weights if isinstance(weight, tuple) for at, _ in weight}
    for at in marks or {0.3}:
        here = [weight_at(weight, at) for weight in weights]
        steps = [SAMPLES * at + by for by in (-1e-3, 1e-3)]
        slope = (np.array(mix.due(steps[1])) - mix.due(steps[0])) / 2e-3  # type: ignore[arg-type]
        np.testing.assert_allclose(slope, np.array(here) / sum(here), atol=0.01)
    before = np.zeros(len(weights))
    for count in range(0, 2 * SAMPLES, 7):
        due = np.array(mix.due(count))
        assert due.sum() == pytest.approx(count)
        assert (due >= before - 1e-9).all()
        before = due


@given(WEIGHTS)
def test_no_source_runs_far_from_what_is_due(weights: list[Weight]) -> None:
    """A source is one ahead at most; of m it is 1/2 + ... + 1/m behind at most."""
    used = [each for each, weight in zip(shares(weights), weights, strict=True) if counts(weight)]
    mix, taken = Mix(used, SAMPLES), np.zeros(len(used))
    behind = sum(1 / number for number in range(2, len(used) + 1)) + 1e-9
    for count in range(1, SAMPLES + 1):
        due = np.array(mix.due(count))
        taken[np.argmax(due - taken)] += 1
        assert (taken - due <= 1).all() and (due - taken <= behind).all()
    assert behind < 1 or len(used) > 3


def test_constant_weights_are_plain_shares() -> None:
    """As runs have them that were made before weights could change."""
    weights = [0.7, 0.1, 0.4]
    assert shares(weights) == [weight / sum(weights) for weight in weights]
    assert Mix(shares(weights), 9).due(5) == [share * 5 for share in shares(weights)]
    assert shares([2.0, ((0.0, 2.0), (1.0, 0.0))]) == [[[0, 0.5], [1, 1]], [[0, 0.5], [1, 0]]]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "sums to nothing, shares"),
        ([0.0, 0.0], "sums to nothing, shares"),
        ([1.0, -1.0], "sums to nothing, shares"),
        ([math.nan], "sums to nothing, shares"),
        ([((0.0, 1.0), (0.5, 0.0))], "sums to nothing at 0.5 of the run"),
        ([((0.0, 1.0), (0.5, 0.0)), ((0.6, 0.0), (1, 1.0))], "sums to nothing at 0.5 of the run"),
        ([1.0, ((0.0, 1.0), (0.5, -0.1))], "at 0.5 of the run"),
        ([1.0, ((0.5, 1.0), (0.5, 0.0))], "rising shares of the run"),
        ([1.0, ((0.5, 1.0), (1.5, 0.0))], "rising shares of the run"),
        ([1.0, ()], "rising shares of the run"),
    ],
)
def test_what_makes_no_mix_is_refused(weights: list[Weight], message: str) -> None:
    with pytest.raises(SluiceError, match=message):
        shares(weights)
    with pytest.raises(ValueError, match=message):
        EncoderSettings.model_validate(
            {"sources": dict(zip("abc", weights, strict=False)), "train": {"objective": "mae"}}
        )


def test_how_it_is_written() -> None:
    given = {"sources": {"a": 0.7, "b": [[0, 1], [1, 0.5]]}, "train": {"objective": "mae"}}
    assert EncoderSettings.model_validate(given).sources == {"a": 0.7, "b": ((0, 1), (1, 0.5))}
    assert _share("b@0123=0:1,1:0.5") == ("b@0123", ((0, 1), (1, 0.5)))
    assert (_share("b=0.7"), _share("b")) == (("b", 0.7), ("b", 1))
    with pytest.raises(SluiceError, match="no share"):
        _share("b=0:1:2")


class Alike(Ranks):
    """A process that finds what the others find."""

    def any(self, flags: Flags) -> Flags:
        return flags


def batches(urls: Sequence[str], count: int, state: Any = None, ranks: Any = None) -> list[Batch]:
    stream = Stream(
        [Source(url, weight) for url, weight in zip(urls, FALL, strict=True)],
        batch=8, canvas=16, shuffle=40, seed=0, cache_mib=1, threads=1, samples=160, ranks=ranks,
    )  # fmt: skip
    return list(islice(stream.batches(state or stream.start()), count))


def named(batch: Batch) -> list[tuple[int, int, int]]:
    return list(zip(batch.places.tolist(), batch.sources.tolist(), batch.ids.tolist(), strict=True))


def test_samples_come_as_they_are_due_from_any_state_and_to_any_process(
    pairs: str, colour_splits: tuple[str, str]
) -> None:
    urls = (pairs, colour_splits[0])
    whole = batches(urls, 20)
    parts = [batches(urls, 20, ranks=Alike(rank, 2)) for rank in range(2)]
    digests = sorted(artifacts.load(url).digest for url in urls)  # type: ignore[union-attr]
    falling = digests.index(artifacts.load(urls[1]).digest)  # type: ignore[union-attr]
    for number, batch in enumerate(whole, 1):
        at = number / 20
        over = min(max(at - 0.2, 0), 0.6)  # 3/4 up to 0.2, then in a line to 0 at 0.8
        due = 160 * (0.75 * (min(at, 0.2) + over) - 0.75 / 0.6 * over**2 / 2)
        assert abs(batch.state["taken"][falling] - due) <= 1
        one, other = (part[number - 1] for part in parts)
        assert sorted(named(one) + named(other)) == named(batch)
        assert one.state == other.state == batch.state
    assert (whole[-1].sources != falling).all()
    for stop in (3, 11):
        rest = batches(urls, 19 - stop, whole[stop].state)
        assert [named(batch) for batch in rest] == [named(batch) for batch in whole[stop + 1 :]]


def test_a_run_whose_mix_changes_resumes_and_tells_what_it_saw(
    pairs: str, greys: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    """One sample of the source that falls away is damaged."""
    settings = small("mae")
    versions = {name: artifacts.load(url) for name, url in (("pairs", pairs), ("greys", greys))}
    for name, version in versions.items():
        assert version
        shutil.copytree(version.url, tmp_path / name / version.digest)
    digests = {name: version.digest for name, version in versions.items() if version}
    plain, falling = {"pairs": 1.0, "greys": 1.0}, dict(zip(digests, FALL, strict=True))
    drafts = [run_draft(str(tmp_path), "a", settings, digests, of) for of in (plain, falling)]
    assert drafts[0].spec.digest != drafts[1].spec.digest
    urls = [str(tmp_path / name / digest) for name, digest in digests.items()]
    mixed = [Source(url, weight) for url, weight in zip(urls, FALL, strict=True)]
    broken = Job(drafts[1].url, drafts[1].spec.digest, settings, tuple(mixed))
    for step in (8, 17):
        with pytest.raises(StoppedError):
            run(broken, stop_at(step))
    made = train(drafts[1], mixed, settings, "local", SilentDisplay())
    whole = Job(str(tmp_path / "whole"), drafts[1].spec.digest, settings, tuple(mixed))
    run(whole, go)
    there = {name: Path(made.url, name).read_bytes() for name in files(whole.url)}
    assert there == files(whole.url)
    grey = {each["source"]: each for each in made.parts[0].extra["mix"]}[digests["greys"]]
    assert grey["share"] == pytest.approx(0.75 * 0.2 + 0.75 * 0.6 / 2)
    assert grey["mass"] == pytest.approx(grey["share"], abs=1 / 160) and grey["undecodable"]
    lines = [json.loads(line) for line in there["metrics.jsonl"].splitlines()]
    masses = [line[f"mass/{digests['greys']}"] for line in lines]
    assert masses[0] == 0.75 and masses[-1] == grey["mass"] and masses[2] > masses[12] > masses[-1]
    times = sum(sum(table["times"].to_pylist()) for table in seen(made.url))
    assert times == 160
    with pytest.raises(SluiceError, match="its draft says"):
        train(drafts[0], mixed, settings, "local", SilentDisplay())
