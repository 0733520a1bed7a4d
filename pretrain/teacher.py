"""A teacher that is a slow average of its student."""

import math
from collections.abc import Iterable

import torch
from timm.layers import DropPath, PatchDropout
from torch import Tensor, nn


def cosine(first: float, last: float, progress: float) -> float:
    """From `first` at progress 0 to `last` at 1, along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """Let a share `keep` of every weight of the teacher stay, the rest come from the student.

    Parameters alone, as published: the running statistics of batch norms stay the teacher's own,
    which its own passes over its own views make (DINO, arXiv:2104.14294).
    """
    approach(teacher.parameters(), student.parameters(), 1 - keep)


@torch.no_grad()
def approach(slow: Iterable[Tensor], fast: Iterable[Tensor], share: float) -> None:
    """Move each of `slow` by a share of the way to its fellow in `fast`.

    Many in a call, so that a GPU does not start a kernel for each; pieces of FSDP2 and whole
    tensors do not go together in one.
    """
    calls: dict[type, tuple[list[Tensor], list[Tensor]]] = {}
    for one, other in zip(slow, fast, strict=True):
        left, right = calls.setdefault(type(one), ([], []))
        left.append(one)
        right.append(other)
    for left, right in calls.values():
        torch._foreach_lerp_(left, right, share)


@torch.no_grad()
def take(teacher: nn.Module, student: nn.Module) -> None:
    """Make the teacher a copy of the student, buffers included, that is never trained."""
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)


def never_drops(model: nn.Module) -> None:
    """Turn off all dropout and drop path within: targets are of the whole network."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, PatchDropout):
            module.prob = 0.0
