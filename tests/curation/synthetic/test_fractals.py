import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from curation.synthetic.fractals import FractalsWork, fractal_items, fractals_draft
from curation.synthetic.render import draw
from curation.synthetic.settings import FractalSettings
from infra.artifacts import Artifact
from infra.dataset import ROWS, Dataset, sample_key
from infra.progress import SilentDisplay
from infra.runner import InlineRunner, LocalRunner, Runner
from infra.stage import run_stage

SETTINGS = FractalSettings(systems=4, instances=6, size=32, points=2000, rows_per_shard=10)


def make(store: str, settings: FractalSettings, runner: Runner) -> Artifact:
    draft = fractals_draft(store, settings)
    work = FractalsWork(draft.url, settings)
    with runner:
        made = run_stage(
            "fractals", {"": draft}, fractal_items(settings), work, runner, SilentDisplay()
        )
    return made[""]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return make(str(tmp_path_factory.mktemp("store")), SETTINGS, InlineRunner())


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
            assert row["uid"] == row["sha256"][:32] and row["bytes"] == len(sample.image)
            assert (row["width"], row["height"], row["format"]) == (32, 32, "png")
            image = np.asarray(Image.open(io.BytesIO(sample.image)))
            np.testing.assert_array_equal(image, draw(SETTINGS, system, number // 4))
            seen.add(row["uid"])
            number += 1
    assert len(seen) == 24


def test_the_draft_says_what_will_be_made(tmp_path):
    draft = fractals_draft(str(tmp_path), SETTINGS)
    assert draft.url.endswith(f"/fractals/{draft.spec.digest}")
    other = fractals_draft(str(tmp_path), SETTINGS.model_copy(update={"points": 2001}))
    assert other.spec.digest != draft.spec.digest
    assert [item.name for item in fractal_items(SETTINGS)] == ["00000", "00001", "00002"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_same_bytes_from_two_processes(artifact, tmp_path):
    again = make(str(tmp_path), SETTINGS, LocalRunner(2))
    assert again.content == artifact.content and again.digest == artifact.digest
