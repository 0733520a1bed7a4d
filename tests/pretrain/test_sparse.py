"""Sparse convolution by masking: nothing of the hidden cells counts, whatever runs beside it."""

import threading
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from infra.errors import SluiceError
from pretrain.masked_images import enlarge
from pretrain.sparse import Shown, bound, check_maps, feature_maps, normalize_shown

SIZE = 64
NETWORKS = ["test_resnet", "test_convnext", "test_convnext3", "test_efficientnet"]


def network(name: str, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, **kwargs)


def cells(seed: int, batch: int = 2, side: int = 2) -> Tensor:
    """Two of every four cells are shown."""
    order = torch.rand(batch, side**2, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return (order < side**2 // 2).view(batch, side, side)


def images(seed: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def total(maps: list[Tensor]) -> Tensor:
    return torch.stack([values.square().mean() for values in maps]).sum()


@pytest.mark.parametrize("name", NETWORKS)
def test_hidden_pixels_change_no_feature_at_any_scale(name: str) -> None:
    net, mask, pixels = network(name), cells(1), images(1)
    hidden = ~enlarge(mask, SIZE, SIZE)[:, None]
    before = feature_maps(net, pixels, Shown(mask))
    after = feature_maps(net, pixels + 7 * hidden, Shown(mask))
    other = feature_maps(net, pixels + 0.1 * ~hidden * pixels, Shown(mask))
    assert len(before) >= 4
    for first, second, third in zip(before, after, other, strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, third)
        places = enlarge(mask, *first.shape[2:])[:, None].expand_as(first)
        assert not first[~places].any()
        assert first[places].any()


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext3"])
def test_with_every_cell_shown_the_network_is_dense(name: str) -> None:
    net, pixels = network(name).eval(), images(2)
    maps = feature_maps(net, pixels, Shown(torch.ones(2, 2, 2, dtype=torch.bool)))
    torch.testing.assert_close(maps[-1], net.forward_features(pixels), rtol=1e-4, atol=1e-5)


def test_a_convolution_is_that_of_zeros_in_hidden_places() -> None:
    rng = np.random.default_rng(0)
    pixels, weight = rng.normal(size=(1, 2, 8, 8)), rng.normal(size=(3, 2, 3, 3))
    mask = np.asarray([[1, 0], [0, 1]], bool)
    full = np.kron(mask, np.ones((4, 4)))
    padded = np.pad(pixels * full, ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.zeros((3, 8, 8))
    for y, x in zip(*full.nonzero(), strict=True):
        expected[:, y, x] = (padded[0, :, y : y + 3, x : x + 3] * weight).sum((1, 2, 3)) + 0.5
    layer = nn.Conv2d(2, 3, 3, padding=1).double()
    layer.weight.data.copy_(torch.from_numpy(weight))
    layer.bias.data.fill_(0.5)  # type: ignore[union-attr]
    shown = Shown(torch.from_numpy(mask)[None])
    found = bound(nn.Sequential(layer), shown)(torch.from_numpy(pixels * full))
    np.testing.assert_allclose(found[0].detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_a_batch_norm_takes_its_statistics_from_shown_places_alone(kind: Any) -> None:
    rng = np.random.default_rng(0)
    values, mask = rng.normal(2, 3, (3, 4, 8, 8)), rng.random((3, 2, 2)) < 0.5
    mask[0] = True
    full = np.kron(mask, np.ones((4, 4), bool))
    taken = values.transpose(0, 2, 3, 1)[full]  # [shown, channels]
    mean, variance = taken.mean(0), taken.var(0)
    normal = (values - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    if kind is BatchNormAct2d:
        normal = np.maximum(normal, 0)
    layer = kind(4).double()
    found = normalize_shown(layer, Shown(torch.from_numpy(mask)), torch.from_numpy(values))
    np.testing.assert_allclose(found.detach().numpy(), normal * full[:, None], atol=1e-10)
    np.testing.assert_allclose(layer.running_mean, 0.1 * mean, atol=1e-10)
    unbiased = variance * len(taken) / (len(taken) - 1)
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * unbiased, atol=1e-10)
    assert layer.num_batches_tracked == 1


def test_the_running_averages_of_a_network_are_those_of_shown_places() -> None:
    net, mask, pixels = network("test_resnet"), cells(3), images(3)
    seen = enlarge(mask, SIZE, SIZE)[:, None]
    with torch.no_grad():
        first = net.conv1[0](pixels * seen).permute(0, 2, 3, 1)
    taken = first[enlarge(mask, *first.shape[1:3])]
    feature_maps(net, pixels, Shown(mask))
    torch.testing.assert_close(net.conv1[1].running_mean, 0.1 * taken.mean(0))
    torch.testing.assert_close(net.conv1[1].running_var, 0.9 + 0.1 * taken.var(0))


def gradients(net: Any, losses: list[Tensor]) -> list[Tensor]:
    """Of each loss in turn, all passes made before the first backward pass."""
    found: list[Tensor] = []
    for loss in losses:
        net.zero_grad()
        loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    return found


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_passes_that_overlap_keep_their_masks_under_checkpointing_too(name: str) -> None:
    """A mask held by a module would be the second one's when the first is computed again."""
    net = network(name)
    calls = [(images(seed), cells(seed)) for seed in (4, 5)]
    alone = [
        gradients(net, [total(feature_maps(net, pixels, Shown(mask)))])[0] for pixels, mask in calls
    ]
    for checkpointing in (False, True):
        net.set_grad_checkpointing(checkpointing)
        losses = [total(feature_maps(net, pixels, Shown(mask))) for pixels, mask in calls]
        for found, expected in zip(gradients(net, losses), alone, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(*alone)


def test_threads_keep_their_masks() -> None:
    net = network("test_resnet").eval()
    calls = [(images(seed), cells(seed)) for seed in (6, 7)]
    found: dict[int, list[Tensor]] = {0: [], 1: []}
    start = threading.Barrier(2)

    def work(number: int) -> None:
        pixels, mask = calls[number]
        start.wait()
        for _ in range(3):
            with torch.no_grad():
                found[number].append(total(feature_maps(net, pixels, Shown(mask))))

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (pixels, mask) in enumerate(calls):
        with torch.no_grad():
            expected = total(feature_maps(net, pixels, Shown(mask)))
        for value in found[number]:
            torch.testing.assert_close(value, expected)
    assert found[0][0] != found[1][0]


def test_a_view_leaves_the_network_as_it_was() -> None:
    net = network("test_resnet").eval()
    before, names = net(images(8)), list(net.state_dict())
    view = bound(net, Shown(cells(8)))
    assert view.conv1[0].weight is net.conv1[0].weight
    assert torch.equal(net(images(8)), before)
    assert list(net.state_dict()) == names


def test_scales_and_widths_are_told_by_the_maps_themselves() -> None:
    assert check_maps(network("test_resnet"), SIZE) == {2: 32, 4: 32, 8: 48, 16: 192, 32: 96}
    assert check_maps(network("test_resnet", output_stride=8), SIZE) == {2: 32, 4: 32, 8: 96}
    net = network("test_resnet").train()
    check_maps(net, SIZE)
    assert net.training
    assert not net.conv1[1].num_batches_tracked


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("test_vit", 64, "reach into hidden cells|has no attribute|cells"),
        ("swin_tiny_patch4_window7_224", 64, "cannot train a SwinTransformer"),
        ("test_resnet", 80, "does not fall into 2 x 2 cells"),
        ("test_resnet", 16, "cannot train a ResNet on 16 pixels"),
    ],
)
def test_what_does_not_keep_to_shown_cells_is_refused(name: str, size: int, message: str) -> None:
    sizes = {"img_size": 64} if "resnet" not in name else {}
    if "swin" in name:
        sizes |= {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2)}
    with pytest.raises(SluiceError, match=message):
        check_maps(network(name, **sizes), size)


def test_what_keeps_to_shown_cells_only_while_its_biases_are_zero_is_refused() -> None:
    """XCiT's blocks work on tokens: in hidden cells they are zero until a bias is not."""
    net = network("xcit_nano_12_p16_224", img_size=64, depth=1)
    with pytest.raises(SluiceError, match=r"cannot train a Xcit on 64.*reach into hidden cells"):
        check_maps(net, 64)


def test_norms_over_the_places_of_one_image_are_refused() -> None:
    with pytest.raises(ValueError, match="GroupNorm averages over the places"):
        bound(nn.Sequential(nn.GroupNorm(2, 4)), Shown(cells(0)))
