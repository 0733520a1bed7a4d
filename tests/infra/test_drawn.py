"""Dataset versions without files, drawn by a package that names its drawer."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infra import artifacts, drawn
from infra.artifacts import Artifact, Part
from infra.dataset import ROWS, Dataset, part_name, read_images, read_samples, read_table
from infra.errors import SluiceError

MODULE = """
import io
import numpy as np
from PIL import Image
from infra.drawn import Classes, Told

class Greys:
    code, size, classes = 1, (4, 6), Classes("level", False, ["0", "1"])

    def __init__(self, settings):
        self.step = settings["step"]

    def tell(self, number):
        return Told(f"{number:032x}", f"grey {number}", '{"level": "0"}', f"greys/{number}")

    def draw(self, number):
        return np.full((4, 6, 3), number * self.step, np.uint8)

    def encode(self, pixels, form):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form)
        return buffer.getvalue()
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that draws greys."""
    (tmp_path / "all_greys.py").write_text(MODULE)
    told = tmp_path / "all_greys-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: all-greys\nVersion: 1\n")
    (told / "entry_points.txt").write_text(f"[{drawn.GROUP}]\ngreys = all_greys:Greys\n")
    monkeypatch.syspath_prepend(tmp_path)
    drawn._opened.cache_clear()
    yield tmp_path
    drawn._opened.cache_clear()
    sys.modules.pop("all_greys", None)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Artifact]:
    """A drawn version of three shards, the last of them short."""

    def made(**changes: Any) -> Artifact:
        given = {"drawer": "greys", "settings": {"step": 10}, "code": 1, "rows": 4, **changes}
        spec = drawn.drawn_spec(**given)
        url = str(tmp_path / "store" / "greys" / spec.digest)
        for shard, count in enumerate((4, 4, 1)):
            artifacts.record_part(url, Part(part_name(shard), (), count, count), 0, 0)
        return artifacts.commit(url, spec)

    return made


def grey(file: bytes) -> int:
    image = np.asarray(Image.open(io.BytesIO(file)))
    assert image.shape == (4, 6, 3) and len(np.unique(image)) == 1
    return int(image[0, 0, 0])


def test_it_is_read_like_any_other(installed: Path, make: Callable[..., Artifact]) -> None:
    artifact = make()
    dataset = Dataset(artifact)
    assert dataset.shards == [0, 1, 2] and drawn.is_drawn(artifact)
    rows = dataset.rows(1)
    assert rows.schema.equals(ROWS)
    (first, *_), count = rows.to_pylist(), rows.num_rows
    assert (count, first["uid"], first["row"], first["shard"]) == (4, f"{4:032x}", 0, 1)
    assert (first["width"], first["height"], first["caption"]) == (6, 4, "grey 4")
    assert first["sha256"] is None and first["tar"] is None
    assert dataset.rows(2, ["row", "status"]).to_pydict() == {"row": [0], "status": ["ok"]}
    samples = list(read_samples(artifact.url, 1))
    assert [sample.row for sample in samples] == [0, 1, 2, 3]
    assert [grey(sample.image) for sample in samples] == [40, 50, 60, 70]
    found = read_images(artifact.url, 2, [0, 0, 5])
    assert {row: grey(image) for row, image in found.items()} == {0: 80}
    assert artifacts.verify(artifact) == []


def test_who_wants_its_files_is_told(installed: Path, make: Callable[..., Artifact]) -> None:
    artifact = make()
    with pytest.raises(SluiceError, match="has no files") as told:
        read_table(artifact.path("rows", "00000.parquet"))
    assert "stored: true" in told.value.way_out
    with pytest.raises(FileNotFoundError):
        read_table(artifact.path("scores", "00000.parquet"))


def test_a_version_that_nobody_draws_is_named(make: Callable[..., Artifact]) -> None:
    drawn._opened.cache_clear()
    with pytest.raises(SluiceError, match="drawn by 'greys', and no installed package") as told:
        Dataset(make()).rows(0)
    assert "fractals" in told.value.what and drawn.GROUP in told.value.way_out


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"code": 2}, "drawn by version 2 .* version 1 is installed"), ({"settings": {}}, "KeyError")],
)
def test_what_would_be_drawn_otherwise_is_refused(
    changes: dict[str, Any], words: str, installed: Path, make: Callable[..., Artifact]
) -> None:
    with pytest.raises(SluiceError, match=words):
        drawn.open_drawer(make(**changes))


def test_a_written_version_has_the_order_of_the_drawn_one(make: Callable[..., Artifact]) -> None:
    artifact, written, other = make(), make(form="png"), make(rows=5)
    assert drawn.order_key(written) == drawn.order_key(artifact) == artifact.digest
    assert written.digest != artifact.digest and not drawn.is_drawn(written)
    assert drawn.order_key(other) == other.digest != artifact.digest


def test_columns_come_in_the_order_asked_for(
    installed: Path, make: Callable[..., Artifact]
) -> None:
    table = Dataset(make()).rows(0, ["caption", "uid", "sha256"])
    assert table.column_names == ["caption", "uid", "sha256"]
    assert table["sha256"].null_count == 4 and table.schema.field("uid").type == pa.string()
