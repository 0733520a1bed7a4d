from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from pretrain import objectives
from pretrain.compiled import Compiled
from pretrain.objectives.base import Objective


def test_getting_ready_leaves_no_trace(
    small: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    plain, compiled = (objectives.build(small("dino")) for _ in range(2))
    views = {"global": torch.rand(8, 3, 32, 32), "local": torch.rand(8, 3, 16, 16)}
    fast = Compiled(compiled)
    for progress in (0.3, 0.8):
        losses: list[torch.Tensor] = []
        for forward in (plain, fast):
            torch.manual_seed(5)
            losses.append(forward(views, progress)[0])
        assert torch.equal(*losses)
        assert torch.equal(plain.center, compiled.center)
        assert plain.center.any()


def test_every_step_after_is_of_one_code(
    small: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a run goes on from: what is compiled does not depend on its first step."""
    graphs: list[Any] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    objective: Objective = objectives.build(small("dino"))
    views = {"global": torch.rand(8, 3, 32, 32), "local": torch.rand(8, 3, 16, 16)}
    forward = Compiled(objective)
    forward(views, 0.35)
    made = len(graphs)
    for progress in (0.4, 0.7, 0.0, 0.95):
        forward(views, progress)
    assert len(graphs) == made
