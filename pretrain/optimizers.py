"""What an optimizer is given: groups of weights, their learning rates, their decay."""

import math
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import Lamb, Lars
from torch import nn

from infra.errors import SluiceError
from pretrain.objectives.base import Objective
from pretrain.settings import TrainSettings


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Linear warm-up; then by step half a cosine down to `min_lr`, or `lr` up to the cooldown,
    or `lr` times `gamma` for each milestone that was reached.
    """
    steps, floor, span = settings.steps, settings.min_lr, settings.lr - settings.min_lr
    warmup = int(settings.warmup * steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "cosine":
        share = (step - warmup) / max(steps - warmup, 1)
        return floor + span * (1 + math.cos(math.pi * share)) / 2
    if settings.schedule == "steps":
        reached = sum(step >= share * steps for share in settings.milestones)
        return max(settings.lr * settings.gamma**reached, floor)
    cooldown = int(settings.cooldown * steps)
    left = steps - step
    return floor + span * left / cooldown if left < cooldown else settings.lr


def make_optimizer(objective: Objective, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer that `settings` name, over all that `objective` trains.

    Its groups say by "decays" whether the weight decay of a step is theirs, and by "scale" what
    share of its learning rate is. Weights that decay come first.
    """
    groups = parameter_groups(objective, settings)
    lr, decay = settings.lr, settings.weight_decay
    if settings.optimizer in ("adamw", "lamb"):
        moments: dict[str, Any] = {"lr": lr, "betas": settings.betas, "eps": settings.eps}
        if settings.optimizer == "adamw":
            return torch.optim.AdamW(groups, weight_decay=decay, fused=True, **moments)
        # timm clips the norm of all gradients to 1 unless told otherwise; clip_grad does that.
        return Lamb(groups, weight_decay=decay, max_grad_norm=None, **moments)
    inertia: dict[str, Any] = {
        "lr": lr,
        "weight_decay": decay,
        "momentum": settings.momentum,
        "nesterov": settings.nesterov,
    }
    if settings.optimizer == "lars":
        return Lars(groups, eps=settings.eps, **inertia)
    return torch.optim.SGD(groups, **inertia)


def parameter_groups(objective: Objective, settings: TrainSettings) -> list[dict[str, Any]]:
    """Trained parameters of one decay and one learning rate each, as optimizers take them.

    Parameters keep their order within a group. Vectors and scalars (norms, biases, scales) do not
    decay. Raises SluiceError where layers are to learn at rates of their own and are not known.
    """
    trained = {id(parameter) for parameter in objective.trained()}
    spared = _spared(objective) if settings.no_decay == "declared" else set[int]()
    scales: dict[int, float] = {}
    if settings.layer_decay is not None:
        scales = layer_scales(objective, settings.layer_decay)
    found: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if id(parameter) in trained:
            decays = parameter.ndim >= 2 and id(parameter) not in spared
            scale = scales.get(id(parameter), 1.0) * objective.lr_scale(name, parameter)
            found.setdefault((decays, scale), []).append(parameter)
    # LARS and LAMB give weights their own rate by what decays, not by whether it does just now.
    return [
        {"params": parameters, "decays": decays, "scale": scale, "always_adapt": decays}
        | ({} if decays else {"weight_decay": 0.0})
        for (decays, scale), parameters in sorted(found.items(), key=lambda item: not item[0][0])
    ]


def set_step(optimizer: torch.optim.Optimizer, rate: float, decay: float) -> None:
    """Give every group its learning rate and its weight decay of this step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
        group["weight_decay"] = decay if group["decays"] else 0.0


def _spared(objective: nn.Module) -> set[int]:
    """Ids of the parameters that the networks within declare not to decay."""
    spared = set[int]()
    for module in objective.modules():
        declare = getattr(module, "no_weight_decay", None)
        if callable(declare):
            names: Any = declare()
            own = dict(module.named_parameters())
            spared |= {id(own[name]) for name in names if name in own}
    return spared


def layer_scales(objective: nn.Module, factor: float) -> dict[int, float]:
    """Share of the learning rate by id of a parameter: factor ** (layers above it).

    Of the encoders that are trained and know their layers (timm's `group_matcher`). What is no
    part of one counts as the layer above its last: a head learns at the full rate (BEiT,
    arXiv:2106.08254). Raises SluiceError where there is no such encoder.
    """
    scales: dict[int, float] = {}
    for module in objective.modules():
        matcher: Any = getattr(module, "group_matcher", None)
        parameters = dict(module.named_parameters())
        if not callable(matcher) or any(id(value) in scales for value in parameters.values()):
            continue
        if any(value.requires_grad for value in parameters.values()):
            layers: Any = group_parameters(module, matcher(coarse=False), reverse=True)
            top = max(layers.values()) + 1
            scales |= {id(parameters[name]): factor ** (top - at) for name, at in layers.items()}
    if not scales:
        raise SluiceError(
            "layer_decay is set, but this network does not say which layer a weight belongs to",
            "use a timm model, or an open_clip model with one as its vision tower; or leave "
            "layer_decay out",
        )
    return scales
