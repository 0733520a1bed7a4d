"""Files of heads: what they say of themselves, and the ways in which they are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.heads import file as heads_file
from curation.heads.card import Card, same_embedding
from curation.heads.file import KEY, Declared, head_bytes, load_head
from infra.errors import SluiceError
from tests.curation.heads.made import TOLD, module, save

LINEAR = {"weight": np.eye(1, 8, dtype=np.float32), "bias": np.zeros(1, np.float32)}
CARD = Card(activations=("relu", "none"), output="sigmoid", dimension=8, **TOLD)
MLP = {
    "layers.0.weight": np.ones((4, 8), np.float32),
    "layers.0.bias": np.zeros(4, np.float32),
    "layers.1.weight": np.ones((1, 4), np.float32),
    "layers.1.bias": np.zeros(1, np.float32),
}
LAYERS = ("layers.0.", "layers.1.")


def written(folder: Path, tensors: dict[str, np.ndarray], card: object = None) -> str:
    file = folder / "head.safetensors"
    text = card.model_dump_json() if isinstance(card, Card) else card
    metadata = None if text is None else {KEY: str(text)}
    safetensors.numpy.save_file(tensors, file, metadata)
    return str(file)


def test_a_head_comes_back_as_it_was_written_and_its_bytes_are_the_same(tmp_path: Path) -> None:
    norm = {"norm.mean": np.ones(8, np.float32), "norm.variance": np.full(8, 4, np.float32)}
    data = [head_bytes(CARD, MLP | norm, LAYERS) for _ in range(8)]
    assert len(set(data)) == 1
    (tmp_path / "head.safetensors").write_bytes(data[0])
    head = load_head(str(tmp_path / "head.safetensors"))
    assert head.card == CARD
    assert head.mean is not None and head.deviation is not None
    assert (head.mean.tolist(), head.deviation.tolist()) == ([1.0] * 8, [2.0] * 8)
    assert [weight.tolist() for weight in head.weights] == [
        MLP[f"{prefix}weight"].tolist() for prefix in LAYERS
    ]


def test_the_recipe_may_repeat_the_card_and_not_contradict_it(tmp_path: Path) -> None:
    file = written(tmp_path, MLP, CARD)
    assert load_head(file, Declared(**TOLD)).card == CARD
    assert load_head(file, Declared("ViT-L-14-quickgelu/openai")).card == CARD
    for wrong in (
        Declared(embedding="ViT-B-32/openai"),
        Declared(units="nuts"),
        Declared(polarity="higher is worse"),
    ):
        with pytest.raises(SluiceError, match=r"the recipe says \w+ '.*head\.safetensors says"):
            load_head(file, wrong)


def test_plain_tensors_need_the_recipe_to_say_what_they_are(tmp_path: Path) -> None:
    file = written(tmp_path, LINEAR)
    assert load_head(file, Declared(**TOLD)).card.source == "linear"
    with pytest.raises(SluiceError, match="does not say its embedding, units, polarity"):
        load_head(file)
    with pytest.raises(SluiceError, match="does not say its polarity"):
        load_head(file, Declared("ViT-L-14/openai", "points"))


def test_an_architecture_is_never_guessed(tmp_path: Path) -> None:
    """The same names with other widths may have had any activations."""
    with pytest.raises(SluiceError, match=r"of no head known here: layers.0.bias \[4\]"):
        load_head(written(tmp_path, MLP), Declared(**TOLD))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.0.weight": np.ones((4, 9), np.float32)}, r"shape \[4, 9\].*\[4, 8\]"),
        ({"layers.1.weight": np.ones((2, 4), np.float32)}, r"shape \[2, 4\].*\[1, 4\]"),
        ({"layers.0.bias": np.zeros(3, np.float32)}, "shape"),
        ({"layers.0.bias": np.zeros((4, 1), np.float32)}, "shape"),
        ({"layers.0.bias": np.zeros((), np.float32)}, "shape"),
        ({"layers.0.weight": np.full((4, 8), np.nan, np.float32)}, "not numbers"),
        ({"layers.1.bias": np.array([np.inf], np.float32)}, "not numbers"),
        ({"layers.1.bias": np.array([1e300])}, "not numbers"),
        ({"layers.2.weight": np.ones((1, 1), np.float32)}, "unknown tensors: layers.2.weight"),
        ({"norm.mean": np.zeros(8, np.float32)}, r"unknown tensors: norm.variance"),
        (
            {"norm.mean": np.zeros(8, np.float32), "norm.variance": -np.ones(8, np.float32)},
            "negative variance",
        ),
        ({"layers.1.bias": np.zeros(1, np.int64)}, "type I64"),
    ],
    ids=range(12),
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(SluiceError, match=message):
        load_head(written(tmp_path, MLP | change, CARD))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": ["swish", "none"]}, "metadata is wrong at activations.0"),
        ({"activations": ["none"]}, "unknown tensors: layers.1"),
        ({"activations": ["none"] * 3}, "missing or unknown tensors: layers.2"),
        ({"activations": []}, "missing or unknown tensors"),
        ({"output": "exp"}, "wrong at output"),
        ({"output": "softmax"}, "a softmax has two classes or more"),
        ({"classes": ["cat", "dog"], "polarity": None}, "nothing else has classes"),
        ({"output": "softmax", "classes": ["a", "a"], "polarity": None}, "two classes have one"),
        ({"output": "softmax", "classes": ["a", "b"]}, "a softmax over classes has none"),
        ({"output": "softmax", "classes": ["a", "B!"], "polarity": None}, "at classes.1"),
        ({"output": "softmax", "classes": ["a", "b"], "polarity": None}, "2 out"),
        ({"polarity": None}, "a head says its polarity"),
        ({"dimension": 0}, "wrong at dimension"),
        ({"dimension": 9}, "shape"),
        ({"embedding": ""}, "wrong at embedding"),
        ({"polarity": "higher is nicer"}, "wrong at polarity"),
        ({"format": 2}, "wrong at format"),
        ({"surprise": 1}, "wrong at surprise"),
    ],
    ids=range(18),
)
def test_a_card_that_is_wrong_is_told(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    text = json.dumps(CARD.model_dump(mode="json") | change)
    with pytest.raises(SluiceError, match=message):
        load_head(written(tmp_path, MLP, text))


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(module("v1-b32").state_dict(), tmp_path / "head.pth")
    with pytest.raises(SluiceError, match=r"PyTorch checkpoint[\s\S]*prefect run head convert"):
        load_head(str(tmp_path / "head.pth"))
    (tmp_path / "text").write_text("no head at all")
    with pytest.raises(SluiceError, match="no whole safetensors file"):
        load_head(str(tmp_path / "text"))
    with pytest.raises(SluiceError, match="no head at"):
        load_head(str(tmp_path / "nowhere"))
    with pytest.raises(SluiceError, match="no head at"):
        load_head(str(tmp_path))
    monkeypatch.setattr(heads_file, "FILE_LIMIT", 1000)
    with pytest.raises(SluiceError, match="larger than 1000 bytes"):
        load_head(save(module("v1-b32"), tmp_path / "head.safetensors"))


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.booleans())
def test_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, cut: bool
) -> None:
    data = bytearray(head_bytes(CARD, MLP, LAYERS))
    place %= len(data)
    data[place] = byte
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    file.write_bytes(data[:place] if cut else data)
    try:
        head = load_head(str(file))
    except SluiceError:
        return
    assert len(head.apply(np.zeros((3, head.card.dimension), np.float16))) == 3


def test_openai_models_have_two_names() -> None:
    assert same_embedding("ViT-L-14-quickgelu/openai", "ViT-L-14/openai")
    assert not same_embedding("ViT-L-14-quickgelu/dfn2b", "ViT-L-14/dfn2b")
    assert not same_embedding("ViT-L-14/laion2b_s32b_b82k", "ViT-L-14/openai")
