"""A whole run in small: the demo's stages on a few dozen images and a few training steps."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from flows.main import Options, Result, execute, prepare
from infra.progress import SilentDisplay

SMALL = (
    "data.demo.per_concept=8",
    "data.demo.tars=3",
    "data.demo.parquets=1",
    "data.demo.folder=12",
    "filter.train.steps=4",
    "filter.train.batch=16",
    "filter.references=32",
    "curate.rules.mismatched_caption.min=-1",
    "synthesize.fractals.systems=4",
    "synthesize.fractals.instances=4",
    "synthesize.fractals.points=2000",
    *(
        f"pretrain.{name}.train.{setting}"
        for name in ("clip", "clip-raw", "dino", "mae")
        for setting in ("steps=3", "batch=8", "threads=1")
    ),
    "filter.train.threads=1",
    "evaluate.resamples=100",
)


def run_small(
    store: Path,
    target: str,
    executor: str = "inline",
    workers: int = 1,
    overrides: Sequence[str] = (),
) -> Result:
    """Run a target of the demo recipe, made small, without Prefect."""
    chosen = (*SMALL, f"run.executor={executor}", f"run.workers={workers}", *overrides)
    prepared = prepare(Options(None, chosen, str(store)))
    return execute(prepared, target, SilentDisplay(), lambda step, session: step.run(session))


@pytest.fixture(scope="session")
def curated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a curated version, made once; treat it as read-only."""
    store = tmp_path_factory.mktemp("curated") / "store"
    run_small(store, "curate")
    return store
