"""Checkpoints become safetensors that score the same; what would run code is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from curation.heads.convert import convert_head, describe
from curation.heads.file import load_head
from curation.heads.published import in_order
from infra.errors import SluiceError
from tests.curation.heads.made import DIMENSIONS, PUBLISHED, TOLD, module, unit


def converted(tmp_path: Path, source: Path, **more: object) -> str:
    return _written(tmp_path, source, **TOLD, **more)


def _written(tmp_path: Path, source: Path, **told: object) -> str:
    target = tmp_path / "head.safetensors"
    target.write_bytes(convert_head(str(source), **told))
    return str(target)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_checkpoints_are_known_by_their_tensors(tmp_path: Path, name: str) -> None:
    made, vectors = module(name), unit(20, DIMENSIONS[name])
    torch.save(made.state_dict(), tmp_path / "head.pth")
    head = load_head(converted(tmp_path, tmp_path / "head.pth"))
    with torch.no_grad():
        expected = made(torch.from_numpy(vectors.astype(np.float32)))[:, 0].numpy()
    np.testing.assert_allclose(head.apply(vectors), expected, rtol=1e-4, atol=1e-5)
    assert head.card.source.endswith("from head.pth")
    assert "units       aesthetic score 1..10" in describe(head.card)


@pytest.mark.parametrize("legacy", [True, False])
def test_other_heads_need_their_activations(tmp_path: Path, legacy: bool) -> None:
    made = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1))
    file = tmp_path / "head.pt"
    state = {"state_dict": made.state_dict()}
    torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(SluiceError, match=r"of no head known here[\s\S]*--activation"):
        converted(tmp_path, file)
    with pytest.raises(SluiceError, match="has 3 layers, 1 activations are given"):
        converted(tmp_path, file, activations=("relu",))
    told = {"activations": ("gelu", "tanh", "none"), "output": "sigmoid"}
    vectors = unit(20, 16)
    with torch.no_grad():
        expected = torch.sigmoid(made(torch.from_numpy(vectors.astype(np.float32))))[:, 0].numpy()
    found = load_head(converted(tmp_path, file, **told)).apply(vectors)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_softmax_names_its_classes(tmp_path: Path) -> None:
    made, file = nn.Linear(16, 3), tmp_path / "head.pt"
    torch.save(made.state_dict(), file)
    told = {"embedding": "a/b", "units": "probability", "polarity": None}
    classes = ("cat", "dog", "none_of_both")
    shape = {"activations": ["none"], "output": "softmax"}
    head = load_head(_written(tmp_path, file, **told, **shape, classes=classes))
    vectors = unit(20, 16)
    with torch.no_grad():
        expected = torch.softmax(made(torch.from_numpy(vectors.astype(np.float32))), 1).numpy()
    found = head.apply(vectors)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (found == np.concatenate([head.apply(row[None]) for row in vectors])).all()
    assert head.apply(vectors[:0]).shape == (0, 3)
    assert "classes     cat, dog, none_of_both" in describe(head.card)
    with pytest.raises(SluiceError, match=r"has shape \[3, 16\], its place asks for \[2, 16\]"):
        convert_head(str(file), **told, **shape, classes=classes[:2])
    with pytest.raises(SluiceError, match="does not fit: Value error, a softmax has two classes"):
        convert_head(str(file), **told, **shape)


class Hostile:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path("ran"),)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Hostile()}, "zipped.pth")
    Path("bare.pth").write_bytes(pickle.dumps(Hostile()))
    for name in ("zipped.pth", "bare.pth"):
        with pytest.raises(SluiceError, match="cannot be read as tensors alone"):
            convert_head(name, **TOLD)
    assert not Path("ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"weight": 3}], ids=range(3))
def test_checkpoints_without_tensors_are_told(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "head.pth")
    with pytest.raises(SluiceError, match="holds no state dict"):
        convert_head(str(tmp_path / "head.pth"), **TOLD)


def test_layers_are_ordered_by_number() -> None:
    names = {f"layers.{place}.{end}": 0 for place in (10, 2, 0) for end in ("weight", "bias")}
    assert in_order(names) == ("layers.0.", "layers.2.", "layers.10.")
