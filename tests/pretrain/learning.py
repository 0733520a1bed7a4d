"""Some steps on one batch: what an objective's tests call learning."""

from typing import Any

from torch import optim

from pretrain.loop import deterministic
from pretrain.objectives.base import Objective


def losses(
    objective: Objective, views: dict[str, Any], steps: int = 30, lr: float = 0.05
) -> list[float]:
    """The loss of each step of plain gradient descent with momentum, on the same views."""
    optimizer = optim.SGD(objective.trained(), lr=lr, momentum=0.9)
    found: list[float] = []
    with deterministic(1):
        for step in range(steps):
            loss, _ = objective(views, step / steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    return found
