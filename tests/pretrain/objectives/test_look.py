import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from infra.errors import SluiceError
from pretrain.data import Batch
from pretrain.loop import deterministic
from pretrain.objectives import look as module
from pretrain.objectives.look import NOBODY, Look, build, look_loss
from pretrain.settings import TrainSettings
from tests.pretrain.batches import batch

CPU = torch.device("cpu")
NAMES = ("red", "green", "blue")


def labelled(count: int, first: int = 0, classes: int = 2) -> Batch:
    texts = [json.dumps({"class": NAMES[place % classes]}) for place in range(count)]
    made = batch(count, first, texts=texts)
    return dataclasses.replace(made, ids=first + np.arange(count))


def by_hand(
    cosines: np.ndarray, alike: np.ndarray, others: np.ndarray, neighbours: int, temperature: float
) -> float:
    """One sample after the other, its neighbours sorted and their votes counted."""
    total = 0.0
    for row in range(len(cosines)):
        keys = [key for key in np.argsort(-cosines[row]) if others[row, key]]
        own = [key for key in keys if alike[row, key]]
        if not own:
            continue
        voters = {*keys[:neighbours], own[0]}
        votes = {key: np.exp(cosines[row, key] / temperature) for key in voters}
        total -= np.log(sum(votes[key] for key in voters if key in own) / sum(votes.values()))
    return total / len(cosines)


def drawn(seed: int, rows: int = 9, keys: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cosines, alike = rng.uniform(-1, 1, (rows, keys)), rng.random((rows, keys)) < 0.2
    return cosines, alike, rng.random((rows, keys)) < 0.8


@pytest.mark.parametrize("neighbours", [1, 4, 30, 99])
def test_the_loss_is_the_direct_formula(neighbours: int) -> None:
    args = drawn(neighbours)
    args[1][0] = False  # alone of its class
    found, figures = look_loss(*map(torch.from_numpy, args), neighbours, 0.1)
    assert found.item() == pytest.approx(by_hand(*args, neighbours, 0.1), rel=1e-9)
    assert figures["lonely"] == pytest.approx(1 / 9)


def test_halves_of_a_batch_have_the_loss_of_the_whole() -> None:
    """Processes take means of their own samples, of which some may be alone of their class."""
    args = [torch.from_numpy(each) for each in drawn(7, rows=8)]
    args[1][:3] = False
    whole, _ = look_loss(*args, 4, 0.1)
    halves = [
        look_loss(*(each[part] for each in args), 4, 0.1)[0] for part in (slice(4), slice(4, 8))
    ]
    assert sum(halves).item() / 2 == pytest.approx(whole.item(), rel=1e-9)


def test_a_class_may_fall_into_groups_where_few_neighbours_vote() -> None:
    """Of a class that is in two groups neither is drawn to the other; with all votes they are."""
    axes = torch.eye(3, dtype=torch.float64)
    keys = torch.cat([axes[0].repeat(4, 1), axes[1].repeat(4, 1), axes[2].repeat(4, 1)])
    alike = torch.tensor([[True] * 4 + [False] * 4 + [True] * 4])
    towards = {}
    for neighbours in (3, 12):
        query = (axes[0] + 0.2 * axes[1])[None].requires_grad_(True)
        loss, _ = look_loss(query @ keys.T, alike, torch.ones_like(alike), neighbours, 0.5)
        loss.backward()
        assert query.grad is not None
        towards[neighbours] = -query.grad[0, 2].item()
        assert (loss.item() == 0) == (neighbours == 3)
    assert towards[3] == 0 and towards[12] > 0.01


def test_the_nearest_of_its_class_joins_where_no_neighbour_is_of_it() -> None:
    """Without it the vote for its own class is 0: an infinite loss, and nothing to learn from."""
    cosines = torch.tensor([[0.9, 0.8, 0.1, -0.5]], requires_grad=True)
    alike = torch.tensor([[False, False, True, True]])
    loss, figures = look_loss(cosines, alike, torch.ones_like(alike), 2, 0.5)
    loss.backward()
    votes = np.exp(np.array([0.9, 0.8, 0.1]) / 0.5)
    assert loss.item() == pytest.approx(-np.log(votes[2] / votes.sum()), rel=1e-5)
    assert cosines.grad is not None
    pulled = cosines.grad[0].tolist()
    assert pulled[0] > 0 and pulled[1] > 0 and pulled[2] < 0 and pulled[3] == 0
    assert figures["accuracy"] == 0 and figures["lonely"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_alone_of_their_class_leave_the_rest_finite(dtype: torch.dtype) -> None:
    cosines = torch.tensor([[0.9, 0.8, 0.1], [0.3, 0.2, 0.1], [0.2, 0.5, 0.4]], dtype=dtype)
    cosines.requires_grad_(True)
    alike = torch.tensor([[False] * 3, [True, False, False], [True, True, False]])
    others = torch.tensor([[True] * 3, [True] * 3, [False] * 3])
    loss, figures = look_loss(cosines, alike, others, 2, 0.01)
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    assert cosines.grad is not None and torch.isfinite(cosines.grad).all()
    assert cosines.grad[0].eq(0).all() and cosines.grad[2].eq(0).all()
    assert figures["lonely"] == pytest.approx(2 / 3)
    nothing, _ = look_loss(cosines, alike, torch.zeros_like(others), 2, 0.01)
    assert nothing.item() == 0


@pytest.fixture
def look(small: Callable[..., Any]) -> Look:
    return build(small("look"))


def stepped(look: Look, made: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    views = look.views(made, CPU)
    loss, figures = look(views, 0.5)
    loss.backward()
    return loss, figures


def test_the_loss_is_against_batch_and_queue_without_itself(look: Look) -> None:
    """The same images twice: what was made of them in the pass before is left out, too."""
    first, again = labelled(6, classes=3), labelled(6, classes=3)
    stepped(look, first)
    queue = look.queue[:6].clone()
    views = look.views(again, CPU)
    with torch.no_grad():
        found = torch.nn.functional.normalize(look.head(look.model(views["images"])), dim=-1)
        slow = torch.nn.functional.normalize(look.slow_head(look.slow(views["images"])), dim=-1)
    cosines = (found @ torch.cat([slow, queue]).T).double().numpy()
    own = np.arange(6)[:, None] == np.tile(np.arange(6), 2)
    alike = (np.arange(6) % 3)[:, None] == np.tile(np.arange(6) % 3, 2)
    loss, _ = stepped(look, again)
    options = look.options
    expected = by_hand(cosines, alike, ~own, options.neighbours, options.temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_same_number_in_another_source_is_another_sample(look: Look) -> None:
    made = dataclasses.replace(labelled(4, classes=3), ids=np.zeros(4, np.int64))
    _, figures = stepped(look, made)
    assert figures["lonely"] == 1
    _, figures = stepped(look, dataclasses.replace(made, sources=np.ones(4, np.int64)))
    assert figures["lonely"] == 0


def test_embeddings_are_queued_around_its_end(look: Look) -> None:
    assert look.queued_class.eq(NOBODY).all()
    for first in (0, 8, 16):
        stepped(look, labelled(8, first, classes=3))
    assert look.place.item() == 4
    assert look.queued_who[:, 1].tolist() == [20, 21, 22, 23, *range(4, 20)]
    assert look.queued_class[:4].tolist() == [1, 2, 0, 1]
    assert torch.allclose(look.queue.norm(dim=1), torch.ones(20))
    assert {"queue", "queued_class", "queued_who", "place"} <= look.state_dict().keys()


def test_processes_have_the_loss_and_the_queue_of_one(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = look.views(labelled(8, classes=3), CPU)
    gathered: list[torch.Tensor] = []
    monkeypatch.setattr(module, "gather", lambda values: gathered.append(values) or values)
    halves, start = [copy.deepcopy(look) for _ in range(2)], copy.deepcopy(look)
    whole, _ = start(views, 0.5)
    found = []
    for number, half in enumerate(halves):
        told = iter(gathered)
        monkeypatch.setattr(module, "gather", lambda values, told=told: next(told))
        own = {name: value[4 * number : 4 * number + 4] for name, value in views.items()}
        found.append(half(own, 0.5)[0].item())
        assert torch.equal(half.queue, start.queue)
        assert torch.equal(half.queued_who, start.queued_who)
        assert half.place.item() == 8
    assert sum(found) / 2 == pytest.approx(whole.item(), rel=1e-5)


def test_the_slow_network_follows_and_is_not_trained(small: Callable[..., Any]) -> None:
    options = {"classes": NAMES, "label": "class", "queue": 20, "momentum": 0.9}
    look = build(small("look", options=options))
    stepped(look, labelled(8))
    assert all(value.grad is not None for value in look.trained())
    assert all(value.grad is None for value in look.slow.parameters())
    before = look.slow.patch_embed.proj.weight.clone()
    with torch.no_grad():
        look.model.patch_embed.proj.weight.add_(1.0)
    look.after_update(0.0)
    assert torch.allclose(look.slow.patch_embed.proj.weight, before + 0.1, atol=1e-6)


def test_of_a_soft_label_the_largest_class_counts(look: Look) -> None:
    texts = [json.dumps({"class": {"red": 1, "blue": 3}}), json.dumps({"class": "green"})]
    assert look.views(batch(2, texts=texts), CPU)["class"].tolist() == [2, 1]


def test_no_classes_and_two_samples_are_refused(small: Callable[..., Any]) -> None:
    with pytest.raises(SluiceError, match=r"options\.classes names none"):
        build(small("look", options={}))
    with pytest.raises(ValidationError, match="at least 3"):
        TrainSettings.model_validate({"objective": "look", "batch": 2})


def test_twenty_steps_separate_the_classes(look: Look) -> None:
    made = labelled(9, classes=3)
    colours = np.asarray([(160, 40, 40), (40, 160, 40), (40, 40, 160)], np.uint8)
    images = colours[np.arange(9) % 3, None, None] + made.images // 4
    views = look.views(dataclasses.replace(made, images=images), CPU)
    optimizer = torch.optim.AdamW(look.trained(), lr=3e-3)
    found: list[float] = []
    with deterministic(1):
        for step in range(20):
            loss, figures = look(views, step / 20)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            look.after_update(step / 20)
            found.append(loss.item())
    assert np.mean(found[-3:]) < 0.5 * np.mean(found[:3])
    assert figures["accuracy"] == 1
