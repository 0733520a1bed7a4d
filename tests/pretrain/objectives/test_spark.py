import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load

from infra.errors import SluiceError
from pretrain.objectives.spark import Decoder, Densify, Spark, build
from pretrain.sparse import Shown
from tests.pretrain.batches import batch

CPU = torch.device("cpu")


@pytest.fixture
def spark(small: Callable[..., Any]) -> Spark:
    return build(small("spark"))


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_is_the_direct_formula(
    normalize: bool, small: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spark = build(small("spark", options={"normalize_pixels": normalize, "decoder_width": 8}))
    views = spark.views(batch(2), CPU)
    predicted = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(spark, "_predict", lambda images, cells: predicted)
    errors: list[float] = []
    pixels, guess = (values.double().numpy() for values in (views["images"], predicted))
    for image, row, column in zip(*(~views["shown"]).numpy().nonzero(), strict=True):
        place = (image, slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
        wanted = pixels[place]
        if normalize:
            wanted = (wanted - wanted.mean()) / np.sqrt(wanted.var(ddof=1) + 1e-6)
        errors.append(((guess[place] - wanted) ** 2).mean())
    assert spark(views, 0.0)[0].item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_published_share_of_cells_is_hidden(small: Callable[..., Any]) -> None:
    """Shown are round(49 * 0.4) = 20 of 7 x 7 cells."""
    spark = build(small("spark", image_size=56))
    shown = spark.views(batch(3), CPU)["shown"]
    assert shown.shape == (3, 7, 7)
    assert shown.sum((1, 2)).tolist() == [20, 20, 20]
    assert not torch.equal(shown[0], shown[1])
    assert torch.equal(spark.views(batch(2, first=1), CPU)["shown"], shown[1:])


def test_hidden_pixels_change_no_prediction(spark: Spark) -> None:
    views = spark.views(batch(2), CPU)
    images, shown = views["images"], views["shown"]
    hidden = (~shown).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    assert torch.equal(spark._predict(images, shown), spark._predict(images + 3 * hidden, shown))
    assert not torch.equal(
        spark._predict(images, shown), spark._predict(images * (1 + 0.1 * ~hidden), shown)
    )


def test_hidden_places_hold_a_learned_token() -> None:
    torch.manual_seed(0)
    dense = Densify(4, 6, 1, batch_norm=True)
    shown = Shown(torch.tensor([[[True, False], [False, True]]]))
    values = torch.randn(1, 4, 4, 4) * torch.eye(2).repeat_interleave(2, 0).repeat_interleave(2, 1)
    output = dense(values, shown)
    token = dense.project(dense.token[None, :, None, None])[0, :, 0, 0]
    torch.testing.assert_close(output[0, :, 0, 3], token)
    torch.testing.assert_close(output[0, :, 2, 1], token)
    assert not torch.allclose(output[0, :, 0, 0], token)


def test_the_decoder_adds_finer_maps_and_ends_at_pixels() -> None:
    decoder = Decoder({2: 3, 4: 5, 8: 6, 16: 7}, 32, batch_norm=False)
    assert list(decoder.densify) == ["16", "8", "4"]
    kernels = [densify.project.kernel_size[0] for densify in decoder.densify.values()]
    assert kernels == [1, 3, 3]
    shown = Shown(torch.tensor([[[True, False], [True, True]]]))
    maps = {stride: torch.randn(1, width, 32 // stride, 32 // stride) for stride, width in
            ((4, 5), (8, 6), (16, 7))}  # fmt: skip
    output = decoder(maps, shown)
    assert output.shape == (1, 3, 32, 32)
    output.mean().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_everything_learns_and_the_loss_falls(small: Callable[..., Any]) -> None:
    spark = build(small("spark")).train()
    views = spark.views(batch(2), CPU)
    optimizer = torch.optim.AdamW(spark.trained(), lr=3e-3)
    losses: list[float] = []
    for _ in range(12):
        loss, _ = spark(views, 0.0)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in spark.trained())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_compiled_it_gives_the_same(spark: Spark) -> None:
    compiled = partial(torch.compile, backend="eager")(spark)
    for first in (0, 4):  # another mask each
        views = spark.views(batch(2, first=first), CPU)
        assert torch.equal(compiled(views, 0.0)[0], spark(views, 0.0)[0])


def test_weight_decay_rises_as_published(spark: Spark) -> None:
    assert spark.weight_decay(0.0) == pytest.approx(0.04)
    assert spark.weight_decay(0.5) == pytest.approx(0.12)
    assert spark.weight_decay(1.0) == pytest.approx(0.2)


def test_the_encoder_is_a_plain_dense_network(spark: Spark, tmp_path: Path) -> None:
    files = dict(spark.eval().files())
    config = json.loads(files["config.json"])
    model = timm.create_model(config["timm_name"], **config["timm_kwargs"]).eval()
    model.load_state_dict(load(files["model.safetensors"]), strict=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), spark.model(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "test_vit", "model_kwargs": {}}, "spark cannot train a VisionTransformer"),
        ({"model_kwargs": {}, "image_size": 32}, "spark cannot train|too few to hide"),
        ({"model_kwargs": {}, "image_size": 80}, "on 80 pixels.*does not fall into 2 x 2 cells"),
        ({"options": {"decoder_width": 12}}, "decoder_width 12 cannot be halved"),
    ],
)
def test_what_does_not_go_together_is_refused(
    small: Callable[..., Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SluiceError, match=message):
        build(small("spark", **change))
