from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from indexes import bfloat16
from infra import artifacts
from infra.errors import SluiceError
from pretrain import objectives
from pretrain.clock import Spent
from pretrain.data import Source
from pretrain.footprint import Given, Live, Memory, fits, measure_memory, rehearsal
from pretrain.loop import deterministic
from pretrain.online import times_asked
from pretrain.preflight import Forecast, Rates, _advance, preflight, verdict, words


def test_live_bytes_are_those_of_the_storages_that_are_there() -> None:
    there = torch.zeros(1000)
    with Live() as live:
        one = there + 1  # 4000 bytes
        again = one.view(10, 100).t()  # the same memory
        there.add_(1)  # was there before
        two = one * 2
        assert live.now == 8000
        del one, again
        assert live.now == 4000
        del two
    assert (live.now, live.peak) == (0, 8000)


def test_live_bytes_of_a_backward_pass() -> None:
    """x -> relu(x @ w): the product, its relu and the sum's gradient are there at once."""
    weight = torch.randn(100, 100, requires_grad=True)
    data = torch.randn(50, 100)
    with Live() as live:
        (data @ weight).exp().sum().backward()
    held = 4 * 50 * 100
    assert 2 * held <= live.peak <= 4 * held + 4 * 100 * 100 + 100
    assert live.now == 4 * 100 * 100  # the gradient


def test_memory_counts_parts_that_seldom_learn(
    pairs: str, greys: str, small: Callable[..., Any]
) -> None:
    """Of the first batches some have no sample of the greys at all."""
    sources = (Source(pairs, 0.94, "pairs"), Source(greys, 0.06, "greys"))
    rotnet = {"objective": "rotnet", "sources": ["pairs"]}
    parts = {"images": rotnet, "seldom": {**rotnet, "sources": ["greys"]}}
    settings = small("joint", options={"parts": parts})
    with deterministic(1):
        told = measure_memory(settings, sources)
        trained = objectives.build(settings).trained()
    assert told.gradients == sum(4 * each.numel() for each in trained)


@pytest.mark.parametrize("objective", ["mae", "clip"])
def test_memory_of_a_full_batch_is_foretold_from_small_ones(
    objective: str, pairs: str, small: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(objective, batch=48)
    sources = (Source(pairs),)
    with deterministic(1):
        told = measure_memory(settings, sources)
        monkeypatch.setattr("pretrain.footprint.PROBES", (48, 48))
        real = measure_memory(settings, sources)
    assert (told.measured_at, real.measured_at) == (16, 48)
    assert (told.weights, told.gradients, told.state) == (
        real.weights,
        real.gradients,
        real.state,
    )
    assert told.state == pytest.approx(2 * told.gradients, rel=0.01)  # AdamW: two moments
    assert told.step == pytest.approx(real.step, rel=0.05)
    assert told.waiting == pytest.approx(real.waiting, rel=0.02)


def test_grad_checkpointing_is_foretold_too(pairs: str, small: Callable[..., Any]) -> None:
    kwargs = {**small("mae").model_kwargs, "depth": 6}
    with deterministic(1):
        plain, saving = (
            measure_memory(
                small("mae", model_kwargs=kwargs, grad_checkpointing=on), (Source(pairs),)
            )
            for on in (False, True)
        )
    assert saving.activations < 0.8 * plain.activations


RATES = Rates(612, 2000, 770, 600, 0.2, 1.5)
MEMORY = Memory(4_000_000, 4_000_000, 8_000_000, 30_000_000, 1_000_000, 100_000_000, 16)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "the loader gives 612 images a second, the model takes 770: it will wait a fifth"),
        (
            {"views": 100},
            "the views give 100 images a second, the model takes 770: it will wait nearly",
        ),
        ({"loader": 5000, "waiting": 0.01}, "it will wait hardly ever"),
        ({"loader": 5000, "waiting": 0.3}, "by itself, but 30% where both share these processors"),
        ({"loader": 385}, "it will wait half of the time"),
    ],
)
def test_the_verdict_is_in_words(changes: dict[str, float], says: str) -> None:
    assert says in verdict(replace(RATES, **changes))


def test_whether_it_fits_is_in_words() -> None:
    assert MEMORY.total == 43_000_000
    assert fits(MEMORY) == "it fits: 43% of what is free"
    assert "does not fit: 43 MB of 40 MB; lower batch" in fits(replace(MEMORY, there=40_000_000))
    assert "does not tell" in fits(replace(MEMORY, there=None))


def test_the_table_has_what_the_run_measured(small: Callable[..., Any]) -> None:
    settings = small("mae", batch=64, steps=1000)
    forecast = Forecast(settings, "cpu", MEMORY, RATES)
    lines = words(forecast)
    assert "time: 1 min 48 s for 1000 steps of 64, 1.5 s of it to the first batch" in lines
    assert not any("measured" in line for line in lines)
    last = words(forecast, Spent(steps=10, waited=1.0, stepped=9.0))[-1]
    assert last == "the run measured: 64 images a second, 10% of the time waiting for data"


def test_evaluations_are_of_the_hours(small: Callable[..., Any]) -> None:
    settings = small("mae", batch=64, steps=1000)
    asked = settings.model_copy(update={"evaluate_every": 300})
    assert [times_asked(each) for each in (settings, asked)] == [0, 5]  # 0, 300, 600, 900, 1000
    plain = Forecast(settings, "cpu", MEMORY, RATES)
    forecast = Forecast(asked, "cpu", MEMORY, RATES, evaluation=12.0)
    assert forecast.seconds == pytest.approx(plain.seconds + 60)
    lines = words(forecast, Spent(steps=10, waited=1.0, stepped=9.0), [10.0, 20.0])
    told = "  and 1 min 0 s to be asked 5 times what it has learnt, 12 s each (evaluate_every)"
    assert told in lines
    assert lines[-1].endswith("waiting for data, asked 2 times in 30 s")


def test_an_evaluation_is_measured(
    pairs: str, colour_splits: tuple[str, str], small: Callable[..., Any]
) -> None:
    train, test = colour_splits
    asked = {"tasks": ["knn"], "neighbours": 5, "resamples": 100, "train": train, "test": test}
    before = sorted(Path(pairs).rglob("*"))
    told = preflight(small("mae", evaluate_every=2, evaluate=asked), (Source(pairs),), 0.02)
    assert told.evaluation > 0
    assert told.seconds > times_asked(told.settings) * told.evaluation
    assert sorted(Path(pairs).rglob("*")) == before
    asked["label"] = "breed"
    with pytest.raises(SluiceError, match="no field 'breed'"):
        preflight(small("mae", evaluate_every=2, evaluate=asked), (Source(pairs),), 0.02)


def test_a_precision_the_processor_is_not_made_for_is_told(
    small: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small("mae", precision="bfloat16")
    told = {}
    for native in (True, False):
        monkeypatch.setattr(bfloat16, "native", lambda device, native=native: native)
        told[native] = words(Forecast(settings, "cpu", MEMORY, RATES))
    assert [line for line in told[False] if line not in told[True]] == [
        "precision: this processor has no instructions for bfloat16: a step takes longer than in "
        "float32; set precision: float32, or train where there are such"
    ]


@pytest.mark.parametrize(("steps", "log_every"), [(1, 10), (2, 10), (20, 1), (20, 5), (20, 100)])
def test_as_many_steps_are_logged_as_in_the_run(
    steps: int, log_every: int, pairs: str, small: Callable[..., Any]
) -> None:
    settings = small("rotnet", steps=steps, log_every=log_every, batch=4)
    with deterministic(1), rehearsal(settings, (Source(pairs),)) as trainer:
        stream = trainer.stream.batches(trainer.stream.start())
        views = next(trainer.viewed(Given(lambda: next(stream))))  # type: ignore[arg-type]
        _advance(trainer, views)
        logged = len(trainer.metrics)
        for _ in range(10):
            _advance(trainer, views)
            assert trainer.step <= steps
    assert logged == 1
    share = 1 / log_every if steps > log_every else 1 / (steps - 1) if steps > 2 else 1
    assert len(trainer.metrics) - logged == pytest.approx(10 * share, abs=1)


def test_preflight_measures_and_writes_nothing(pairs: str, small: Callable[..., Any]) -> None:
    before = sorted(Path(pairs).rglob("*"))
    told = preflight(small("mae", cache_mib=1), (Source(pairs),), 0.05)
    rates = told.rates
    assert min(rates.loader, rates.views, rates.model, rates.together) > 0
    assert 0 <= rates.waiting < 1
    assert told.seconds > 0
    assert told.memory.there
    assert sorted(Path(pairs).rglob("*")) == before
    with pytest.raises(SluiceError, match="seconds is 0"):
        preflight(small("mae"), (Source(pairs),), 0)


def test_several_workers_have_a_part_of_the_batch_each(
    pairs: str, small: Callable[..., Any]
) -> None:
    sources = (Source(pairs),)
    one = preflight(small("mae", batch=8), sources, 0.02)
    two = preflight(small("mae", batch=16, workers=2), sources, 0.02)
    assert two.memory.step == one.memory.step
    assert two.memory.measured_at == 8


def test_the_command_tells_of_a_run(
    pairs: str, small: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pretrain.__main__ import app

    artifact = artifacts.load(pairs)
    assert artifact
    place = tmp_path / "pairs" / artifact.digest
    place.parent.mkdir()
    place.symlink_to(pairs)
    settings = small("mae").model_dump(mode="json")
    (tmp_path / "mae.yaml").write_text(yaml.safe_dump(settings))
    command = ["preflight", "mine", "--settings", str(tmp_path / "mae.yaml"), "--source"]
    command += [f"pairs@{artifact.digest}", "--store", str(tmp_path), "--seconds", "0.05"]
    with pytest.raises(SystemExit, match="0"):
        app(command)
    said = capsys.readouterr().out
    assert "memory of each process on cpu" in said
    assert "images a second" in said
    assert "it will wait" in said
    assert not (tmp_path / "runs").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    from pretrain.__main__ import app

    with pytest.raises(SystemExit, match="0"):
        app(["preflight", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "python -m pretrain preflight mine --settings mae.yaml" in said
    assert "steps wait for data" in said
