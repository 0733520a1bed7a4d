"""The text tower reads a batch's captions without needless padding."""

from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch

from pretrain.declare import TINY_CLIP
from pretrain.objectives.clip import build
from pretrain.texts import encode_text, reads_on, shortened, unit_text
from tests.pretrain.batches import batch

SAID = ["a red cat on a mat", "a dog", "", "a very long story of a bird and a stone"]


def model(**text: Any) -> open_clip.CLIP:
    torch.manual_seed(0)
    settings = {**TINY_CLIP, "text_cfg": {**TINY_CLIP["text_cfg"], **text}}
    found = open_clip.CLIP(**settings)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # a new network's biases are 0
    return found


@pytest.mark.parametrize("bias", [False, True])
def test_short_captions_have_the_same_vectors_and_gradients(bias: bool) -> None:
    tower = model(proj_bias=bias)
    tokens = open_clip.SimpleTokenizer(context_length=tower.context_length)(SAID)
    few = shortened(tokens)
    assert few.shape[1] % 8 == 0
    assert int((tokens != 0).sum(1).max()) <= few.shape[1] < tokens.shape[1]
    found: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
    for ids in (tokens, few):
        vectors = encode_text(tower, ids)
        weights = [each for each in tower.parameters() if each.requires_grad]
        grads = torch.autograd.grad(vectors.square().sum(), weights, allow_unused=True)
        found.append((vectors, [each for each in grads if each is not None]))
    (whole, all_grads), (part, part_grads) = found
    assert torch.allclose(whole, part, atol=1e-5)
    assert len(all_grads) == len(part_grads) > 5
    for one, other in zip(all_grads, part_grads, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))
    assert torch.allclose(
        unit_text(tower, few), tower.encode_text(tokens, normalize=True), atol=1e-5
    )


def test_a_caption_as_long_as_the_context_keeps_it() -> None:
    tokens = open_clip.SimpleTokenizer(context_length=16)(["word " * 40, "a"])
    assert shortened(tokens).shape == (2, 16)


def test_towers_that_look_at_all_tokens_get_all() -> None:
    assert reads_on(model())
    assert not reads_on(model(no_causal_mask=True))
    assert not reads_on(model(pool_type="last"))
    assert not reads_on(torch.nn.Linear(1, 1))


def test_views_are_short_unless_the_largest_are_asked_for(small: Callable[..., Any]) -> None:
    clip = build(small("clip"))
    context = clip.model.context_length
    given = batch(4, captions=[*SAID[:3], "a bird"])
    assert clip.views(given, torch.device("cpu"))["tokens"].shape[1] < context
    clip.largest = True
    assert clip.views(given, torch.device("cpu"))["tokens"].shape[1] == context
    clip = build(small("clip", compile=True))
    assert clip.views(given, torch.device("cpu"))["tokens"].shape[1] == context
