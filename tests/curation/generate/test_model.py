"""A pipeline's folder: what it holds has a name, and what is not safe or whole is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from curation.generate.model import INDEX, find_model
from curation.networks import HUB
from infra.errors import SluiceError


@pytest.fixture
def folder(diffusion: Path, tmp_path: Path) -> Path:
    """A copy of the pipeline, to be changed."""
    return Path(shutil.copytree(diffusion, tmp_path / diffusion.name))


def change_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / INDEX).read_text()) | changes
    (folder / INDEX).write_text(json.dumps(index))


def content(folder: Path) -> str:
    return find_model(str(folder), None, True).content


def test_a_copy_elsewhere_has_the_same_fingerprint(diffusion: Path, folder: Path) -> None:
    found, copy = (find_model(str(each), None, True) for each in (diffusion, folder))
    assert (found.name, found.content) == (copy.name, copy.content)
    assert len(found.content) == 16 and found.commit is None
    for name in ("README.md", "unet/picture.png", "unet/other.bin", "other.safetensors"):
        (folder / name).write_text("not read by diffusers")
    assert content(folder) == found.content


def test_every_file_that_is_loaded_changes_the_fingerprint(folder: Path) -> None:
    before = content(folder)
    files = [*folder.rglob("*.json"), *folder.rglob("*.safetensors")]
    assert len(files) >= 12
    for file in files:
        data = file.read_bytes()
        file.write_bytes(data + b"\n")
        assert content(folder) != before, file
        file.write_bytes(data)
    assert content(folder) == before
    (folder / "unet" / "config.json").rename(folder / "unet" / "more.json")
    assert content(folder) != before


def no_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def no_part(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def pickles(folder: Path) -> None:
    place = folder / "unet" / "diffusion_pytorch_model.safetensors"
    place.rename(place.with_suffix(".bin"))


def no_weights(folder: Path) -> None:
    (folder / "text_encoder" / "model.safetensors").unlink()


def of_code(folder: Path) -> None:
    """A part whose class is in a file beside its weights."""
    (folder / "unet" / "diffusers.py").write_text("raise SystemExit('code was run')")


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (no_index, "is no diffusers pipeline: it has no model_index.json"),
        (lambda each: (each / INDEX).write_text("[1, 2"), "is not JSON"),
        (lambda each: (each / INDEX).write_text("[" * 100_000), "is not JSON"),
        (lambda each: (each / INDEX).write_text("[1, 2]"), "names no pipeline"),
        (lambda each: change_index(each, _class_name=["mine", "Mine"]), "code of its own"),
        (lambda each: change_index(each, unet=["os", "system"]), "code of its own, os.system"),
        (of_code, "code of its own, diffusers.UNet2DConditionModel"),
        (lambda each: change_index(each, unet=["../x", "Y"]), "is no part of a pipeline"),
        (lambda each: change_index(each, **{"../unet": ["diffusers", "X"]}), "is no part"),
        (no_part, "has no part 'vae'"),
        (pickles, "only as diffusion_pytorch_model.bin, which may run code"),
        (no_weights, "the weights of its part 'text_encoder' are nowhere"),
        (lambda each: change_index(each, safety_checker=[None, None]), "has no safety checker"),
    ],
)
def test_what_is_not_safe_or_not_whole_is_refused_before_it_is_loaded(
    folder: Path, harm: Callable[[Path], object], why: str
) -> None:
    harm(folder)
    with pytest.raises(SluiceError, match=why):
        find_model(str(folder), None, True)


def test_a_checker_is_asked_for_where_safety_is_on_alone(folder: Path) -> None:
    change_index(folder, safety_checker=[None, None])
    assert find_model(str(folder), None, False).name == folder.name


def test_places_that_are_none_are_refused(tmp_path: Path) -> None:
    for wrong in (str(tmp_path / "none"), "s3://bucket/model", "owner/name"):
        with pytest.raises(SluiceError, match="no folder of this machine"):
            find_model(wrong, None, True)
    for wrong in ("name", "a/b/c", "../x", "a/..\n"):
        with pytest.raises(SluiceError, match="names no repository"):
            find_model(HUB + wrong, None, True)
    with pytest.raises(SluiceError, match="a folder has no revision"):
        find_model(str(tmp_path), "main", True)


def test_a_hub_name_is_a_commit_and_found_in_the_cache_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("indexes.hub.hub_reachable", lambda: False)
    with pytest.raises(SluiceError, match="not in the cache of this machine"):
        find_model(f"{HUB}owner/name", None, True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "models--owner--name"
    (cache / "snapshots" / commit).mkdir(parents=True)
    (cache / "snapshots" / commit / INDEX).write_text("{}")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    found = find_model(f"{HUB}owner/name", None, True)
    assert (found.name, found.content, found.commit) == ("owner/name", commit, commit)
    assert find_model(f"{HUB}owner/name", commit, True) == found
