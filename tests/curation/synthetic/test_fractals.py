import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from curation.synthetic.fractals import (
    Fractals,
    drawer,
    fractal_items,
    fractals_draft,
    fractals_work,
    own_settings,
)
from curation.synthetic.render import draw
from curation.synthetic.scene import draw_scene
from curation.synthetic.settings import FractalSettings
from infra.artifacts import Artifact
from infra.dataset import ROWS, Dataset, sample_key
from infra.drawn import order_key
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner, LocalRunner, Runner
from infra.stage import run_stage

SETTINGS = FractalSettings(
    systems=4, instances=6, size=32, points=2000, rows_per_shard=10, stored=True
)
DRAWN = SETTINGS.model_copy(update={"stored": False})
SCENES = DRAWN.model_copy(update={"objects": (1, 3)})


def make(store: str, settings: FractalSettings, runner: Runner | None = None) -> Artifact:
    draft = fractals_draft(store, settings)
    work, items = fractals_work(draft.url, settings), fractal_items(settings)
    with runner or InlineRunner() as lent:
        made = run_stage("fractals", {"": draft}, items, work, lent, SilentDisplay(), work.extra)
    return made[""]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def artifact(store):
    return make(store, SETTINGS)


def test_a_normal_dataset_version(artifact):
    dataset = Dataset(artifact)
    assert artifact.kind == "dataset" and "/fractals/" in artifact.url
    assert dataset.shards == [0, 1, 2]
    assert artifact.totals["rows"] == artifact.totals["kept"] == 24
    seen = set()
    number = 0
    for shard in dataset.shards:
        rows = dataset.rows(shard)
        assert rows.schema.equals(ROWS)
        samples = list(dataset.samples(shard))
        for index, (row, sample) in enumerate(zip(rows.to_pylist(), samples, strict=True)):
            system = number % 4
            assert row["shard"] == shard and row["row"] == index == sample.row
            assert row["key"] == sample_key(shard, index)
            assert row["caption"] == sample.caption == f"a fractal of system {system}"
            assert json.loads(row["meta"]) == {"system": system}
            assert row["sha256"] == hashlib.sha256(sample.image).hexdigest()
            assert row["bytes"] == len(sample.image)
            assert (row["width"], row["height"], row["format"]) == (32, 32, "png")
            image = np.asarray(Image.open(io.BytesIO(sample.image)))
            np.testing.assert_array_equal(image, draw(SETTINGS, system, number // 4))
            seen.add(row["uid"])
            number += 1
    assert len(seen) == 24


@pytest.mark.parametrize("settings", [DRAWN, SCENES])
def test_drawn_and_written_are_the_same_samples(store, settings):
    drawn, written = make(store, settings), make(store, settings.model_copy(update={"stored": 1}))
    assert drawn.totals["bytes"] == 0
    assert drawn.totals["kept"] == written.totals["kept"] == 24
    assert order_key(written) == order_key(drawn) == drawn.digest
    one, other = Dataset(drawn), Dataset(written)
    assert one.shards == other.shards
    columns = ["uid", "shard", "row", "status", "source", "caption", "meta", "width", "height"]
    for shard in one.shards:
        assert one.rows(shard, columns).equals(other.rows(shard, columns))
        assert list(one.samples(shard)) == list(other.samples(shard))


def test_a_scene_says_what_it_shows():
    fractals = drawer(own_settings(SCENES))
    assert fractals.classes.several and list(fractals.classes.names) == ["0", "1", "2", "3"]
    counts = set()
    for number in range(24):
        image, systems = draw_scene(SCENES, number)
        told = fractals.tell(number)
        assert json.loads(told.meta) == {"labels": [str(system) for system in systems]}
        np.testing.assert_array_equal(fractals.draw(number), image)
        counts.add(len(systems))
    assert counts >= {1, 2, 3}


def test_a_uid_is_the_images_own():
    """It stays where more are drawn, or in other shards; it changes where pixels do."""

    def uids(numbers, **changes):
        fractals = Fractals(SETTINGS.model_copy(update=changes))
        return [fractals.tell(number).uid for number in numbers]

    own = uids(range(24))
    assert len({*own}) == 24 and all(len(uid) == 32 for uid in own)
    assert uids(range(24), instances=9, rows_per_shard=3, stored=False, format="jpg") == own
    assert uids(range(0, 48, 8), systems=8) == own[::4]  # system 0 of 8 is system 0 of 4
    for changes in ({"points": 2001}, {"seed": 1}, {"colour": False}):
        assert not {*uids(range(24), **changes)} & {*own}


def test_the_draft_says_what_will_be_made(tmp_path):
    draft = fractals_draft(str(tmp_path), SETTINGS)
    assert draft.url.endswith(f"/fractals/{draft.spec.digest}")
    others = ({"points": 2001}, {"stored": False}, {"rows_per_shard": 9}, {"format": "jpg"})
    digests = {
        fractals_draft(str(tmp_path), SETTINGS.model_copy(update=changes)).spec.digest
        for changes in others
    }
    assert len(digests) == len(others) and draft.spec.digest not in digests
    assert [item.name for item in fractal_items(SETTINGS)] == ["00000", "00001", "00002"]
    assert not list(tmp_path.iterdir())


def test_a_thousand_images_of_a_million_systems_are_a_small_manifest(tmp_path):
    many = FractalSettings(systems=1_000_000, instances=1000)
    items = fractal_items(many)
    assert len(items) == 1000 and items[-1].value == (999, 999_000_000, 1_000_000_000)
    work = fractals_work(str(tmp_path), many)
    parts = [work(items[place].value, [items[place].name]) for place in (0, 1, 999)]
    assert [part.kept for each in parts for part in each.values()] == [1_000_000] * 3
    assert Fractals(many).tell(999_999_999).caption == "a fractal of system 999999"
    with pytest.raises(ValueError, match="more than 65,536 shards"):
        FractalSettings(systems=1_000_000, instances=1_000_000)


def test_a_drawn_version_of_systems_that_are_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("curation.synthetic.ifs.ATTEMPTS", 3)
    hopeless = DRAWN.model_copy(update={"filling": 0.9, "seed": 77})
    with pytest.raises(SluiceError, match="no fractal system 0"):
        make(str(tmp_path), hopeless)


@pytest.mark.slow
def test_the_same_bytes_from_two_processes(artifact, tmp_path):
    again = make(str(tmp_path), SETTINGS, LocalRunner(2))
    assert again.content == artifact.content and again.digest == artifact.digest
