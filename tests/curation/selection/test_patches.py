"""A plan that leaves out patches: masks of what is selected, and the export that fills them."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.export import ExportSettings, ExportWork, export_draft, export_items, masks_url
from curation.patches import GRID, unpack
from curation.selection.select import check_plan
from curation.selection.settings import SelectionSettings
from flows.demo.photos import load
from infra.errors import SluiceError
from tests.curation.conftest import Maker

ROWS = 24
PLAN = {"kind": "quantization", "fraction": 0.5, "bins": 2}
PATCHES = {"patches": {"scorer": "where", "keep": 0.25}}


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    crop = load("cat").crop((number * 5, number * 3, number * 5 + 160, number * 3 + 128))
    crop.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture
def made(maker):
    rng = np.random.default_rng(0)
    maker = Maker(maker.store, 10)
    made = maker.dataset("pool", [{"image": jpeg(number)} for number in range(ROWS)])
    vectors = rng.normal(size=(ROWS, 8))
    maker.score(made, "clip", {"fine": [True] * ROWS}, {"image": vectors})
    importance = rng.random((ROWS, GRID * GRID))
    importance[3] = 0  # of this one nothing is known
    maker.score(made, "where", {"focus": [0.5] * ROWS}, {"importance": importance})
    return made, importance.astype(np.float16)


def export(maker, selecting, made, selection, folder: Path, drop: bool) -> dict[str, bytes]:
    version = selecting.curate(made, selection)
    settings = ExportSettings.model_validate({"drop_patches": drop, "samples_per_shard": 5})
    draft = export_draft(str(folder), version, settings)
    work = ExportWork(draft.url, version.url, settings, masks_url(version) if drop else None)
    maker.run(draft, export_items(version, settings), work)
    found = {}
    for path in sorted(folder.glob("*.tar")):
        table = pq.read_table(path.with_suffix(".parquet"), columns=["key", "uid"])
        uids = {row["key"]: row["uid"] for row in table.to_pylist()}
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".jpg"):
                    found[uids[member.name[:-4]]] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return found


def test_masks_stand_beside_what_is_selected(selecting, made) -> None:
    made, importance = made
    plain = selecting.select(made, PLAN)
    artifact = selecting.select(made, PLAN | PATCHES)
    rows = selecting.table(artifact.url, made).to_pylist()
    same = selecting.table(plain.url, made).drop_columns(["patches"])
    assert selecting.table(artifact.url, made).drop_columns(["patches"]).equals(same)
    for row, own in zip(rows, importance, strict=True):
        assert (row["patches"] is not None) == (row["selected"] and own.any())
        if row["patches"]:
            kept = unpack(row["patches"]).ravel()
            assert kept.sum() == 49 and own[kept].min() >= own[~kept].max()


def test_an_export_fills_them_and_only_then(maker, selecting, made, tmp_path) -> None:
    made, _ = made
    selection = selecting.select(made, PLAN | PATCHES)
    whole = export(maker, selecting, made, selection, tmp_path / "whole", False)
    less = export(maker, selecting, made, selection, tmp_path / "less", True)
    assert len(whole) == 12 and whole.keys() == less.keys()
    masks = {row["uid"]: row["patches"] for row in selecting.table(selection.url, made).to_pylist()}
    for uid, image in whole.items():
        assert image == jpeg(int(uid, 16))
        assert (less[uid] == image) == (masks[uid] is None)
        assert Image.open(io.BytesIO(less[uid])).size == (160, 128)
    assert sum(map(len, less.values())) < 0.7 * sum(map(len, whole.values()))


def test_a_version_without_masks_is_told(selecting, made) -> None:
    made, _ = made
    for selection in (None, selecting.select(made, PLAN)):
        version = selecting.curate(made, selection)
        with pytest.raises(SluiceError, match="is of no plan that leaves out patches"):
            masks_url(version)


def test_a_scorer_that_is_none_for_it_is_told() -> None:
    settings = SelectionSettings.model_validate({"plan": [PLAN | PATCHES]})
    with pytest.raises(SluiceError, match=r"the scorer 'where'.* is none for it"):
        check_plan(settings, {}, ["clip/image", "where/other"])
    check_plan(settings, {}, ["clip/image", "where/importance"])
    with pytest.raises(ValueError, match="two selectors leave out patches"):
        twice = [PLAN | PATCHES, PLAN | PATCHES | {"name": "again"}]
        SelectionSettings.model_validate({"plan": twice})
