"""Fractals in a recipe: drawn when training reads them, or stored."""

from pathlib import Path
from typing import Any

import pytest

from flows.main import Options, prepare
from flows.plan import plan
from flows.report.fractals import write_catalogue
from flows.report.render import fill
from infra import artifacts
from infra.dataset import Dataset, open_dataset
from tests.flows.conftest import SMALL, run_small

LEARN = "{{objective: {}, model: test_resnet, image_size: 32, batch: 16, steps: 2}}"


def steps(store: Path, *changes: str) -> dict[str, Any]:
    return prepare(Options(None, (*SMALL, *changes), str(store))).pipeline.steps


def test_fractals_take_no_room_unless_they_are_stored(tmp_path: Path) -> None:
    """Either way there are the same samples, and the last one made is `fractals`."""
    run_small(tmp_path, "synthesize")
    drawn = open_dataset(str(tmp_path), "fractals")
    assert drawn.artifact.totals["bytes"] == 0 and drawn.artifact.totals["kept"] == 16
    again = "synthesize.fractals.stored=true"
    run_small(tmp_path, "synthesize", overrides=[again])
    stored = open_dataset(str(tmp_path), "fractals")
    assert stored.artifact.totals["bytes"] > 0 and stored.url != drawn.url
    assert stored.rows(0, ["uid", "meta"]).equals(drawn.rows(0, ["uid", "meta"]))
    told = plan(Options(None, SMALL, str(tmp_path)), "synthesize")
    assert "in the store" in told and "to do: 0 of 1 steps" in told
    catalogued(tmp_path, drawn, stored)


def catalogued(folder: Path, *versions: Dataset) -> None:
    """Both have a page with a tile for each system."""
    for version in versions:
        assert write_catalogue(str(folder), version.url, fill) == "fractals.html"
        page = (folder / "report" / "fractals.html").read_text()
        assert page.count("data:image/webp;base64,") == page.count('<li class="tile"') == 4
        assert "4 systems" in page and "<script" not in page
    assert write_catalogue(str(folder), None, fill) is None


def test_a_plan_of_a_billion_images_costs_nothing(tmp_path: Path) -> None:
    many = ("synthesize.fractals.systems=1000000", "synthesize.fractals.instances=1000")
    told = plan(Options(None, (*SMALL, *many), str(tmp_path)), "synthesize")
    assert "1,000,000,000" in told and "about 0.0 s of work, 0 B" in told


def test_nor_does_it_where_fewer_were_drawn_before(tmp_path: Path) -> None:
    run_small(tmp_path, "synthesize")
    test_a_plan_of_a_billion_images_costs_nothing(tmp_path)


@pytest.mark.parametrize(
    ("objective", "objects", "label"),
    [("supervised", "null", "system"), ("multi_instance", "[1, 3]", "labels")],
)
def test_a_run_learns_the_systems_without_their_names(
    objective: str, objects: str, label: str, tmp_path: Path
) -> None:
    made = steps(
        tmp_path,
        f"synthesize.fractals.objects={objects}",
        "pretrain.mae.sources={fractals: 1}",
        f"pretrain.mae.train={LEARN.format(objective)}",
    )
    options = made["pretrain mae"].draft.spec.settings["options"]
    assert (options["label"], list(options["classes"])) == (label, ["0", "1", "2", "3"])
    assert artifacts.load(made["fractals"].draft.url) is None  # told before anything is made


def test_classes_come_with_a_version_of_the_store_too(tmp_path: Path) -> None:
    run_small(tmp_path, "synthesize")
    made = steps(
        tmp_path,
        "pretrain.mae.sources={fractals@latest: 1}",
        f"pretrain.mae.train={LEARN.format('supervised')}",
    )
    assert made["pretrain mae"].draft.spec.settings["options"]["classes"] == ["0", "1", "2", "3"]
