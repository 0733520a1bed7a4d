"""Training on samples that are drawn when they are needed."""

import json
import time
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.synthetic.fractals import fractal_items, fractals_draft, fractals_work
from curation.synthetic.settings import FractalSettings
from infra.artifacts import Artifact
from infra.dataset import publish
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.stage import run_stage
from pretrain import __main__ as command
from pretrain.data import Batch, Source, Stream
from pretrain.run import run_draft, train
from pretrain.seen import seen
from pretrain.settings import TrainSettings
from pretrain.told_classes import with_classes

FEW = FractalSettings(systems=4, instances=12, size=40, points=1000, rows_per_shard=10)
SCENES = FEW.model_copy(update={"objects": (1, 3)})
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}


def make(store: str, settings: FractalSettings) -> Artifact:
    draft = fractals_draft(store, settings)
    work, items = fractals_work(draft.url, settings), fractal_items(settings)
    with InlineRunner() as lent:
        made = run_stage("", {"": draft}, items, work, lent, SilentDisplay(), work.extra)[""]
    publish(store, "fractals", made)
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def both(store: str) -> tuple[Artifact, Artifact]:
    """Drawn, and the same written as PNG."""
    return make(store, FEW), make(store, FEW.model_copy(update={"stored": True}))


def stream(*sources: Source, **changes: Any) -> Stream:
    given = {"batch": 8, "canvas": 16, "shuffle": 15, "seed": 1, "cache_mib": 0, "threads": 2}
    return Stream(sources, **{**given, **changes})


def take(source: Stream, count: int, state: Any = None) -> list[Batch]:
    return list(islice(source.batches(state or source.start()), count))


def same(one: Batch, other: Batch) -> None:
    assert one.ids.tolist() == other.ids.tolist() and one.captions == other.captions
    assert one.texts == other.texts and one.state == other.state
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.sizes, other.sizes)
    np.testing.assert_array_equal(one.sources, other.sources)


def settings(objective: str = "supervised", **changes: Any) -> TrainSettings:
    given = {
        "objective": objective, "model": "vit_tiny_patch16_224", "model_kwargs": VIT,
        "image_size": 32, "batch": 8, "steps": 6, "threads": 1, "shuffle": 15,
    }  # fmt: skip
    return TrainSettings.model_validate({**given, **changes})


@pytest.mark.parametrize("canvas", [16, 24, 40])
def test_batches_are_those_of_the_written_version(
    canvas: int, both: tuple[Artifact, Artifact], pairs: str
) -> None:
    """Alone and in a mix, over more than an epoch, from any state on."""
    one, other = (
        take(stream(Source(each.url, 3), Source(pairs, 1), canvas=canvas, texts=True), 9)
        for each in both
    )
    for drawn, written in zip(one, other, strict=True):
        same(drawn, written)
    alone, kept = (stream(Source(both[0].url), cache_mib=mib) for mib in (0, 8))
    batches = take(alone, 14)
    for drawn, cached in zip(batches, take(kept, 14), strict=True):
        same(drawn, cached)
    for drawn, resumed in zip(batches[5:], take(alone, 9, batches[4].state), strict=True):
        same(drawn, resumed)


def test_a_run_is_that_of_the_written_version(store: str, both: tuple[Artifact, Artifact]) -> None:
    """The same bytes, and the same samples seen by uid."""
    found: list[dict[str, Any]] = []
    for version in both:
        told = with_classes(settings(), {"": version.settings})
        draft = run_draft(store, "one", told, {"": version.digest})
        run = train(draft, [Source(version.url)], told, "local", SilentDisplay())
        files = ("model.safetensors", "metrics.jsonl", "classifier.safetensors")
        rows = [row for shard in seen(run.url) for row in shard.to_pylist()]
        times = [(row["id"], row["uid"], row["times"]) for row in rows]
        found.append({name: Path(run.url, name).read_bytes() for name in files} | {"seen": times})
    assert found[0] == found[1]
    assert sum(times for *_, times in found[0]["seen"]) == 48


def test_a_billion_images_take_no_room(tmp_path: Path) -> None:
    many = FractalSettings(systems=1_000_000, instances=1000, size=16, points=200)
    version = make(str(tmp_path), many)
    assert version.totals["kept"] == 10**9
    assert sum(file.stat().st_size for file in Path(version.url).rglob("*")) < 200_000
    tracemalloc.start()
    begin = time.monotonic()
    batch, again = take(stream(Source(version.url), canvas=16), 2)
    seconds, peak = time.monotonic() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len({*batch.ids.tolist(), *again.ids.tolist()}) == 16
    assert peak < 100e6 and seconds < 10
    # Anywhere in the order, at once.
    state = {**batch.state, "positions": [987_654_321], "taken": [987_654_321]}
    (far,) = take(stream(Source(version.url), canvas=16), 1, state)
    assert far.places[0] == 987_654_321 and len({*far.ids.tolist()}) == 8


@pytest.mark.parametrize(
    ("objective", "fractals", "label"),
    [("supervised", FEW, "system"), ("look", FEW, "system"), ("multi_instance", SCENES, "labels")],
)
def test_classes_are_those_of_the_source(
    objective: str, fractals: FractalSettings, label: str, store: str
) -> None:
    version = make(store, fractals)
    told = with_classes(settings(objective, batch=16), {"": version.settings})
    assert told.options.label == label  # type: ignore[attr-defined]
    assert told.options.classes == ("0", "1", "2", "3")  # type: ignore[attr-defined]
    by_hand = settings(
        objective, batch=16, options={"label": label, "classes": ["0", "1", "2", "3"]}
    )
    assert told.identity() == by_hand.identity()


def test_classes_are_left_where_they_would_be_guessed(store: str) -> None:
    single, scenes = (make(store, each).settings for each in (FEW, SCENES))
    for given, sources in (
        (settings(options={"label": "concept"}), [single]),
        (settings(options={"label": "system", "classes": ["1", "2"]}), [single]),
        (settings(), [single, {}]),
        (settings(), [{}]),
        (settings(), [scenes]),
        (settings("multi_instance"), [single]),
        (settings("mae"), [single]),
    ):
        named = {str(number): each for number, each in enumerate(sources)}
        assert with_classes(given, named) is given


def test_parts_of_a_joint_run_have_the_classes_of_their_source(store: str) -> None:
    sources = {"one": make(store, FEW).settings, "many": make(store, SCENES).settings, "web": {}}
    parts = {
        "shapes": {"objective": "multi_instance", "sources": ["many"]},
        "systems": {"objective": "supervised", "sources": ["one"]},
        "photos": {"objective": "supervised", "sources": ["web", "one"]},
    }
    given = settings("joint", options={"parts": parts})
    told = with_classes(given, sources).options.parts  # type: ignore[attr-defined]
    labels = {name: (part.options.label, len(part.options.classes)) for name, part in told.items()}
    assert labels == {"shapes": ("labels", 4), "systems": ("system", 4), "photos": ("concept", 0)}


def test_the_command_line_trains_on_scenes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(str(tmp_path), SCENES)
    told = tmp_path / "settings.json"
    short = {"model": "test_resnet", "image_size": 32, "batch": 8, "steps": 3, "threads": 1}
    told.write_text(json.dumps({"objective": "multi_instance", **short}))
    given: dict[str, Any] = {"settings": told, "source": ["fractals"], "store": str(tmp_path)}
    command.train("mine", **given)
    url = capsys.readouterr().out.split()[-1]
    assert json.loads(Path(url, "classes.json").read_text()) == ["0", "1", "2", "3"]
    command.preflight("mine", **given, seconds=0.1)
    assert "the run measured" in capsys.readouterr().out
