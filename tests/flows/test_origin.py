"""What steps are strung together from: the same on another machine, or refused there."""

import json
import tarfile
from pathlib import Path

import pytest

from flows.job import Order, digests_of
from flows.main import Options, prepare
from flows.origin import Origin
from flows.race.main import RaceOptions
from flows.race.main import prepare as prepare_race
from infra.errors import SluiceError


def elsewhere(origin: Origin) -> Origin:
    """As a job reads it."""
    order = Order(origin=origin.pinned(), step="", digests={}, workers=0, deadline=1)
    return Order.model_validate(json.loads(json.dumps(order.to_json()))).origin


@pytest.fixture
def tar(tmp_path: Path) -> str:
    with tarfile.open(tmp_path / "00000.tar", "w"):
        pass
    return str(tmp_path / "00000.tar")


@pytest.mark.parametrize(
    "name", ["curate-and-pretrain", "three-seeds", "your-shards", "datacomp-basic"]
)
def test_a_recipe_has_the_same_steps_elsewhere(name: str, tmp_path: Path, tar: str) -> None:
    changes = () if name in ("curate-and-pretrain", "three-seeds") else (f"data.pool.0.tars={tar}",)
    prepared = prepare(Options(name, changes, str(tmp_path)))
    ours = {name: digests_of(step) for name, step in prepared.pipeline.steps.items()}
    there = elsewhere(Origin(store=prepared.store, recipes={"": prepared.recipe})).steps()
    assert {name: digests_of(step) for name, step in there.items()} == ours


def test_a_race_has_the_same_steps_elsewhere(tmp_path: Path) -> None:
    race = prepare_race(RaceOptions(("curate-and-pretrain",), store=str(tmp_path)))
    origin = Origin(store=race.store, recipes=dict(race.recipes), race=race.settings)
    there = elsewhere(origin).steps()
    assert {name: digests_of(step) for name, step in there.items()} == {
        name: digests_of(step) for name, step in race.steps.items()
    }


def test_a_job_refuses_to_make_something_else(tmp_path: Path) -> None:
    prepared = prepare(Options(None, (), str(tmp_path)))
    origin = Origin(store=prepared.store, recipes={"": prepared.recipe})
    step = prepared.pipeline.steps["ingest pool"]
    order = Order(origin=origin, step=step.name, digests=digests_of(step), workers=0, deadline=1)
    assert order.found().name == step.name
    other = order.model_copy(update={"digests": {"": "0123456789abcdef"}})
    with pytest.raises(SluiceError, match="0123456789abcdef") as caught:
        other.found()
    assert "the same Sluice" in caught.value.way_out
