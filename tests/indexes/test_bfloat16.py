"""Products of bfloat16 on processors that are not made for them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from indexes import bfloat16


def seeded(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without such instructions, whatever this one has."""
    monkeypatch.setattr(bfloat16, "native", lambda device: device != "cpu")


CASES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": lambda x, w: functional.linear(x, w, w[0, : len(w)]),
    "matmul": lambda x, w: x @ w.T,
    "batches": lambda x, w: x.view(2, -1, 16) @ w.T.expand(2, -1, -1),
    "einsum": lambda x, w: torch.einsum("ij,kj->ik", x, w),
    "attention": lambda x, w: functional.scaled_dot_product_attention(
        x.view(1, 2, 12, 16), *[w.view(1, 2, 4, 16)] * 2, attn_mask=w.view(-1)[:48].view(12, 4)
    ),
    "conv": lambda x, w: functional.conv2d(x.view(1, 4, 8, -1), w.view(-1, 4, 2, 2), w[0, :8]),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_they_are_the_true_ones_rounded(case: str, grad: bool, elsewhere: None) -> None:
    """Forth and back: of factors rounded to bfloat16, in float64, and the outcome rounded."""
    data, weights = (seeded(size, 16).bfloat16() for size in (24, 8))
    given = [each.double().requires_grad_() for each in (data, weights)]
    out = CASES[case](*given)
    aim = seeded(*out.shape).bfloat16()
    true = torch.autograd.grad(out, given, aim.double())
    low = [each.clone().requires_grad_(grad) for each in (data, weights)]
    with bfloat16.products("cpu"), torch.inference_mode(not grad):
        made = CASES[case](*low)
        found = torch.autograd.grad(made, low, aim) if grad else ()
    assert made.dtype is torch.bfloat16
    pairs = [(made, out), *zip(found, true, strict=False)]
    for ours, theirs in pairs:
        assert ours.dtype is torch.bfloat16
        torch.testing.assert_close(ours.double(), theirs, rtol=2**-7, atol=2**-6)


def test_with_autocast_all_of_a_networks_products_are_in_float32(elsewhere: None) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(288, 4))
    seen: list[torch.dtype] = []

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in bfloat16.PRODUCTS:
                seen.extend(each.dtype for each in args if isinstance(each, Tensor))
            return func(*args, **(kwargs or {}))

    with Seen(), bfloat16.products("cpu"), torch.autocast("cpu", torch.bfloat16):
        network(seeded(2, 3, 8, 8)).float().sum().backward()
    assert len(seen) > 10 and set(seen) == {torch.float32}


def test_who_is_made_for_them_does_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bfloat16.native("cuda")
    monkeypatch.setattr(bfloat16, "native", lambda device: True)
    with bfloat16.products("cpu") as mode:
        assert mode is None


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_a_pytorch_that_does_not_tell_is_left_alone(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        def __getattr__(self, name: str) -> None:
            raise error(name)

    monkeypatch.setattr(torch.ops, "mkldnn", Silent())
    assert bfloat16.native("cpu")
