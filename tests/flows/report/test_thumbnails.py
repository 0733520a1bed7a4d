import base64
import io
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from flows.report import ReportContext
from flows.report.thumbnails import TILES, Budget, Place, thumbnails

Made = tuple[str, ReportContext]


def test_pictures_are_at_most_96_pixels(made: Made) -> None:
    place = Place(made[1].pool or "", 0, 0)
    uri = thumbnails([place])[place]
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert max(image.size) <= TILES.edge


def test_only_the_shards_needed_are_opened(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = LocalFileSystem.open
    monkeypatch.setattr(
        LocalFileSystem, "open", lambda fs, path, *rest: opened.append(path) or original(fs, path)
    )
    pool = made[1].pool or ""
    assert len(thumbnails([Place(pool, 1, 3), Place(pool, 1, 4)])) == 2
    assert {Path(path).stem for path in opened} == {"00001"}


def test_what_cannot_be_shown_is_left_out(made: Made, tmp_path: Path) -> None:
    pool = made[1].pool or ""
    rejected, beyond, nowhere = Place(pool, 0, 2), Place(pool, 0, 4000), Place(str(tmp_path), 0, 0)
    assert thumbnails([rejected, beyond, nowhere]) == {}


def test_the_page_has_a_limit(made: Made) -> None:
    places = [Place(made[1].pool or "", 0, row) for row in range(10, 20)]
    assert list(thumbnails(places, Budget(96, 4, 10**6))) == places[:4]
    chosen = thumbnails(places, Budget(96, 100, 3000))
    assert 0 < len(chosen) < len(places)
    assert sum(map(len, chosen.values())) <= 3000
