"""Several processes that share every batch: what they read and learn, stopped and resumed."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra import artifacts, dataset
from infra.errors import SluiceError
from pretrain.data import Source, Stream
from pretrain.ranks import Ranks

ROOT = Path(__file__).parents[2]
READ = """
import json, sys
from torch import distributed
from pretrain.data import Source, Stream
from pretrain.ranks import joined
sources, state, count = json.loads(sys.argv[1])
distributed.init_process_group("gloo")
stream = Stream([Source(*each) for each in sources], batch=8, canvas=8, shuffle=20, seed=3,
                cache_mib=1, threads=1, ranks=joined())
batches = stream.batches(state or stream.start())
for _ in range(count):
    batch = next(batches)
    seen = list(zip(batch.places.tolist(), batch.sources.tolist(), batch.ids.tolist()))
    print(json.dumps([seen, dict(batch.state)]))
"""


def together(count: int, *command: str, code: int = 0) -> list[str]:
    """What each of several processes prints, joined as torchrun joins them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [code] * count, said
    return [out for out, _ in said]


def batches_of(lines: Sequence[str]) -> tuple[list[list[Any]], dict[str, Any]]:
    """Of each batch what all processes read, by position, and the last state, which all share."""
    told = [[json.loads(line) for line in each.splitlines()] for each in lines]
    states = [[state for _, state in each] for each in told]
    assert all(state == states[0] for state in states)
    whole = [
        sorted(chain.from_iterable(seen for seen, _ in step)) for step in zip(*told, strict=True)
    ]
    return whole, states[0][-1]


@pytest.mark.long
def test_four_two_and_four_processes_read_the_samples_that_one_reads(
    pairs: str, greys: str, fractals: str
) -> None:
    """One of the samples is damaged: all skip it, and its place goes to the next of the mix.

    A third of them have no files: they are drawn.
    """
    sources = [(pairs, 0.4), (greys, 0.25), (fractals, 0.35)]
    found: list[list[Any]] = []
    state: dict[str, Any] | None = None
    for count, steps in ((4, 3), (2, 6), (4, 3)):
        told, state = batches_of(together(count, "-c", READ, json.dumps([sources, state, steps])))
        found += told
    alone = Stream(
        [Source(*each) for each in sources],
        batch=8,
        canvas=8,
        shuffle=20,
        seed=3,
        cache_mib=1,
        threads=1,
    )
    reading = alone.batches(alone.start())
    for step in found:
        batch = next(reading)
        told = zip(batch.places.tolist(), batch.sources.tolist(), batch.ids.tolist(), strict=True)
        assert [tuple(each) for each in step] == list(told)
    assert state == batch.state
    assert sum(state["skipped"]) and state["bad"]


def test_processes_share_samples_evenly_and_by_shard() -> None:
    shards = [(0, number) for number in np.random.default_rng(0).integers(0, 6, 24).tolist()]
    owners = Ranks(0, 3).owners(shards)
    parts = [np.flatnonzero(owners == rank).tolist() for rank in range(3)]
    assert [len(part) for part in parts] == [8, 8, 8]
    assert sorted(chain.from_iterable(parts)) == list(range(24))
    for part in parts:
        assert part == sorted(part) and len({shards[number] for number in part}) <= 4
    assert Ranks().owners(shards).tolist() == [0] * 24


def test_a_batch_that_does_not_divide_is_refused(pairs: str) -> None:
    with pytest.raises(SluiceError, match="3 processes") as caught:
        Ranks(0, 3).check(8)
    assert "batch of 9" in caught.value.way_out


def train(store: str, settings: str, processes: int, code: int = 0) -> dict[str, Any]:
    """The last line of a run's metrics, as the command line trains it."""
    command = ("-m", "pretrain", "train", "mine", "--settings", settings, "--store", store)
    url = together(processes, *command, "--source", "pairs", code=code)[0].split()[-1]
    assert artifacts.load(url) is not None
    return json.loads((Path(url) / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["clip", pytest.param("mae", marks=pytest.mark.long)])
def test_two_processes_learn_what_one_learns(
    objective: str, pairs: str, small: Any, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.json"
    options = {"negatives": "global"} if objective == "clip" else {}
    changed = small(objective, steps=4, log_every=4).model_dump(mode="json", exclude_none=True)
    changed["options"] |= options
    settings.write_text(json.dumps(changed))
    lines: list[dict[str, Any]] = []
    for count in (1, 2):
        store = tmp_path / str(count)
        (store / "pairs").mkdir(parents=True)
        digest = artifacts.load(pairs).digest  # type: ignore[union-attr]
        (store / "pairs" / digest).symlink_to(pairs)
        dataset.publish(str(store), "pairs", artifacts.load(pairs))  # type: ignore[arg-type]
        lines.append(train(str(store), str(settings), count))
    assert lines[0]["loss"] == pytest.approx(lines[1]["loss"], rel=2e-4)
