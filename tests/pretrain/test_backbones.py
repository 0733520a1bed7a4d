import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from infra.errors import SluiceError
from pretrain import objectives
from pretrain.backbones import build_clip, build_encoder, checkpoint_blocks, to_bytes


def test_the_seed_decides_the_weights(small: Callable[..., Any]) -> None:
    for objective, build in (("mae", build_encoder), ("clip", build_clip)):
        one, two, other = (
            to_bytes(build(small(objective, seed=seed)).model.state_dict()) for seed in (0, 0, 1)
        )
        assert one == two != other


def test_the_image_size_of_the_settings_counts(small: Callable[..., Any]) -> None:
    parts = build_clip(small("clip", image_size=48))
    assert parts.config["vision_cfg"]["image_size"] == 48
    assert parts.model.encode_image(torch.zeros(1, 3, 48, 48)).shape == (1, 16)
    encoder = build_encoder(small("mae", image_size=48))
    assert encoder.kwargs["img_size"] == 48
    assert encoder.model(torch.zeros(1, 3, 48, 48)).shape == (1, 24)


def test_an_open_clip_name_is_a_model_too(small: Callable[..., Any]) -> None:
    """A name of open_clip, at our image size; its own configuration is what gets saved."""
    parts = build_clip(small("clip", model="ViT-S-32-alt", image_size=64))
    assert parts.config["embed_dim"] == 256
    assert parts.config["vision_cfg"]["image_size"] == 64
    json.dumps(parts.config)


@pytest.mark.parametrize(
    ("objective", "change", "message"),
    [
        ("clip", {"model": "ViT-Z-99"}, "open_clip knows no model 'ViT-Z-99'"),
        ("clip", {"model": {"embed_dim": 3}}, "has keys .'embed_dim'."),
        (
            "clip",
            {"model": {"embed_dim": 8, "vision_cfg": {"depth": 3}, "text_cfg": {}}},
            "cannot build this model",
        ),
        ("clip", {"model": "ViT-S-32-alt", "image_size": 48}, "not divisible by the patch size 32"),
        ("clip", {"pretrained": "nowhere.safetensors"}, "no file, no run's folder and no open_cl"),
        ("mae", {"model": "vit_of_nobody", "model_kwargs": {}}, "timm knows no model"),
        ("mae", {"model_kwargs": {"patch_size": 8, "deep": 3}}, "timm cannot build .*deep"),
        (
            "mae",
            {"model": "vit_tiny_patch16_224", "model_kwargs": {}, "image_size": 40},
            "not divisible by the patch size 16",
        ),
        ("mae", {"pretrained": "nowhere"}, "do not fit .* or cannot be read"),
    ],
)
def test_a_model_that_cannot_be_had(
    objective: str, change: dict[str, Any], message: str, small: Callable[..., Any]
) -> None:
    build = build_clip if objective == "clip" else build_encoder
    with pytest.raises(SluiceError, match=message):
        build(small(objective, **change))


@pytest.mark.parametrize("objective", ["clip", "mae"])
def test_weights_are_taken_whole_or_refused(
    objective: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    build = build_clip if objective == "clip" else build_encoder
    names = {"clip": "open_clip_model.safetensors", "mae": "model.safetensors"}
    state = build(small(objective, seed=5)).model.state_dict()
    file = tmp_path / names[objective]
    save_file(state, file)
    for place in (tmp_path, file):
        model = build(small(objective, pretrained=str(place))).model
        assert to_bytes(model.state_dict()) == to_bytes(state)
    last = sorted(state)[-1]
    save_file({name: value for name, value in state.items() if name != last}, file)
    with pytest.raises(SluiceError, match=last):
        build(small(objective, pretrained=str(file)))
    save_file({**state, last: torch.zeros(3, 3, 3)}, file)
    with pytest.raises(SluiceError, match=last):
        build(small(objective, pretrained=str(file)))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(SluiceError, match="do not fit"):
        build(small(objective, pretrained=str(file)))


def test_a_pickle_that_runs_code_is_refused(small: Callable[..., Any], tmp_path: Path) -> None:
    import pickle

    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(SluiceError):
        build_clip(small("clip", pretrained=str(tmp_path / "bad.pt")))
    assert not marker.exists()


def test_activations_are_not_kept_where_asked(small: Callable[..., Any]) -> None:
    dino = objectives.build(small("dino"))
    checkpoint_blocks(dino)
    assert dino.student.grad_checkpointing
    assert not dino.teacher.grad_checkpointing  # it is not trained, so it keeps none anyway
    with pytest.raises(SluiceError, match="grad_checkpointing is set"):
        checkpoint_blocks(dino.student_head)


def test_an_encoder_may_say_which_vector_stands_for_an_image(small: Callable[..., Any]) -> None:
    encoder = build_encoder(small("dino"))
    for pooling in (None, "patch_mean"):
        files = dict(replace(encoder, pooling=pooling).files((0.5,) * 3, (0.5,) * 3))
        assert json.loads(files["config.json"]).get("pooling") == pooling
