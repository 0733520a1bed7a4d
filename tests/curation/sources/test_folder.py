"""Image folders: what good and bad files yield."""

from pathlib import Path

from curation.settings import SourceSettings
from curation.sources import open_source
from tests.curation.sources.made import picture, reasons, records


def test_an_image_folder(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    (root / "cats").mkdir(parents=True)
    for name in ("cats/b.png", "a.JPG", "lonely.png"):
        (root / name).write_bytes(picture())
    (root / "a.txt").write_text("an a\n")
    (root / "cats/b.txt").write_text("a b")
    (root / "cats/b.json").write_text('{"url": "u", "breed": "tabby"}')
    (root / "Thumbs.db").write_bytes(b"")
    (root / "words.txt").write_text("no picture")
    found = records(SourceSettings(folder=str(root)))
    assert [(record.source, record.reason) for record in found] == [
        ("pictures/a", None),
        ("pictures/cats/b", None),
        ("pictures/lonely", "missing_caption"),
        ("pictures/words", "missing_image"),
    ]
    assert (found[1].url, found[1].meta) == ("u", {"breed": "tabby"})


def test_two_images_of_one_name_in_a_folder(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.jpg", "b.JPG"):
        (tmp_path / name).write_bytes(b"x")
    assert reasons(records(SourceSettings(folder=str(tmp_path)))) == ["two_images", "two_images"]


def test_a_folder_is_cut_into_shards(tmp_path: Path) -> None:
    for index in range(7):
        (tmp_path / f"{index}.png").write_bytes(picture(index))
        (tmp_path / f"{index}.txt").write_text("a")
    units = open_source(SourceSettings(folder=str(tmp_path))).units(3)
    assert [len(list(unit.records())) for unit in units] == [3, 3, 1]


def test_a_file_that_vanishes_is_a_row(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(picture())
        (tmp_path / f"{name}.txt").write_text("a")
    unit = open_source(SourceSettings(folder=str(tmp_path))).units(3)[0]
    (tmp_path / "a.png").unlink()
    assert reasons(list(unit.records())) == ["unreadable_file", None]
