"""Targets and losses of a student that learns from a slow average of itself.

DINO (Caron et al. 2021, arXiv:2104.14294), iBOT (Zhou et al. 2022, arXiv:2111.07832), DINOv2
(Oquab et al. 2023, arXiv:2304.07193). Sums over samples reach over all processes of a run.
"""

import math

import torch
from torch import Tensor, distributed
from torch.nn import functional

from infra.errors import SluiceError
from pretrain.distributed import mean_row, world

KOLEO_EPSILON = 1e-8
NEAR_DUPLICATE = 0.98  # cosine of two samples' features from which they count as one


def ramp(first: float, last: float, warmup: float, progress: float) -> float:
    """Linear from first to last over the share `warmup` of the run, by step; then last."""
    return first + (last - first) * min(progress / warmup, 1.0) if warmup else last


def centred(logits: Tensor, center: Tensor, cool: float) -> Tensor:
    """Targets of DINO: softmax((logits - center) / cool) over the last dimension."""
    return functional.softmax((logits - center) / cool, dim=-1)


@torch.no_grad()
def recentre(center: Tensor, logits: Tensor, momentum: float) -> None:
    """Move the centre [prototypes] towards the mean of logits [samples, prototypes]."""
    center.lerp_(mean_row(logits), 1 - momentum)


@torch.no_grad()
def sinkhorn(logits: Tensor, cool: float, rounds: int = 3) -> Tensor:
    """Targets [samples, prototypes] in which all prototypes are used about equally.

    Sinkhorn and Knopp's scaling of exp(logits / cool), as in SwAV (arXiv:2006.09882): by turns
    each prototype is given 1 / prototypes of the mass and each sample 1 / samples of it; samples
    last, so each row sums to 1. Logarithms throughout, every sum shifted by its largest term:
    nothing overflows, and no sample is lost because another has larger logits.
    """
    logs = logits.float() / cool
    for _ in range(rounds):
        logs = logs - _log_sum_of_samples(logs) - math.log(logs.shape[1])
        logs = logs - logs.logsumexp(1, keepdim=True)
    return logs.exp()


def _log_sum_of_samples(logs: Tensor) -> Tensor:
    """log(sum of exp) over all samples of all processes, [prototypes]."""
    most = logs.amax(0)
    if world() > 1:
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
    total = (logs - most).exp().sum(0)
    if world() > 1:
        distributed.all_reduce(total)
    return most + total.log()


def view_loss(student: Tensor, targets: Tensor, warm: float) -> Tensor:
    """Cross-entropy of each student view against each other target view, averaged.

    student: logits [views, batch, prototypes]; targets: [2, batch, prototypes], of the same first
    two views; warm: temperature of the student. With v views these are 2v - 2 terms of one
    weight: the loss over 2 pairs of large views and that over 2 (v - 2) of a large and a small
    one, each by its number of terms.
    """
    logs = functional.log_softmax(student / warm, dim=-1)
    terms = [
        -(targets[target] * logs[view]).sum(-1).mean()
        for target in range(len(targets))
        for view in range(len(student))
        if view != target
    ]
    return torch.stack(terms).mean()


def patch_loss(
    student: Tensor, targets: Tensor, weights: Tensor, images: int, warm: float
) -> Tensor:
    """iBOT: cross-entropy of each hidden patch against what the teacher sees there.

    student: logits [hidden, prototypes]; targets: [hidden, prototypes]; weights: [hidden], 1 / the
    number of hidden patches of its image; images: all of the batch, those shown whole included.
    """
    terms = -(targets * functional.log_softmax(student / warm, dim=-1)).sum(-1)
    return (terms * weights).sum() / images


def koleo_loss(features: Tensor) -> tuple[Tensor, Tensor]:
    """Kozachenko and Leonenko's estimate of entropy, less: the features are to spread evenly.

    Sablayrolles et al. 2019 (arXiv:1806.03198): the mean of -log of each feature's distance to the
    nearest other, all of unit length. features: [batch, width], of one view. float32 whatever
    comes in: half precision rounds epsilon to 0, and two equal images to infinity. Also returns
    the share of pairs that are near duplicates (cosine above `NEAR_DUPLICATE`). Samples of other
    processes are not compared, as published; SluiceError where a process has but one.
    """
    if len(features) < 2:
        raise SluiceError(
            "KoLeo compares the samples of a step in one process, and there is one",
            "raise batch, or use fewer workers",
        )
    unit = functional.normalize(features.float(), dim=-1)
    with torch.no_grad():
        cosines = unit @ unit.T
        pairs = torch.triu(torch.ones_like(cosines), diagonal=1)
        near = ((cosines > NEAR_DUPLICATE) * pairs).sum() / pairs.sum()
        nearest = cosines.fill_diagonal_(-1).argmax(1)
    distance = (unit - unit[nearest]).norm(dim=-1)
    return -(distance + KOLEO_EPSILON).log().mean(), near


def spread(targets: Tensor) -> dict[str, Tensor]:
    """Health of targets [samples, prototypes], as shares of the largest entropy there is.

    Both near 1: all targets uniform; usage near 0: all images alike. Both are collapse. Sinkhorn's
    targets use all prototypes by construction: there it is entropy near 1 that tells.
    """
    most = math.log(targets.shape[-1])
    mean = targets.mean(0)
    return {
        "entropy": torch.special.entr(targets).sum(-1).mean() / most,
        "usage": torch.special.entr(mean).sum() / most,
    }
