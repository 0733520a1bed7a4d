"""What a teacher gave, short enough to be stored, and whole again: float16 shares of top classes.

A share is off by at most its 2048th part, or 2^-25 where it is below 2^-14.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

SLACK = 2e-3  # by which stored probabilities may exceed 1
VIEWS = 2  # dimensions of what is stored for each view

Classes = NDArray[np.uint16]
Short = NDArray[np.float16]


def shorten(probabilities: NDArray[np.float32], top: int) -> tuple[Classes, Short]:
    """The `top` largest of [..., classes] and whose they are, the largest first: [..., top] each.

    Of equal ones the class of lower number comes first.
    """
    order = np.argsort(-probabilities, axis=-1, kind="stable")[..., :top]
    return order.astype(np.uint16), np.take_along_axis(probabilities, order, -1).astype(np.float16)


def densify(classes: Classes, shares: Short, count: int, *, spread: bool) -> NDArray[np.float32]:
    """Probabilities of all `count` classes from those of a few: [n, top] -> [n, count], summing
    to 1.

    spread: what the few leave goes to all others evenly; else it is dropped, and the few are
    scaled to sum to 1. They are probabilities already: a softmax over them would flatten them.
    """
    kept, others = shares.astype(np.float64), count - classes.shape[1]
    left = np.zeros((len(kept), 1))
    if spread and others:
        left = np.clip(1 - kept.sum(1, keepdims=True), 0, None) / others
    target = np.repeat(left, count, axis=1)
    np.put_along_axis(target, classes.astype(np.int64), kept, 1)
    return (target / target.sum(1, keepdims=True)).astype(np.float32)


def shorten_map(scores: NDArray[np.float32], top: int) -> tuple[Classes, Short]:
    """Scores (logits) by place [..., classes] to the `top` largest of each place, as `shorten`.

    Those are stored less the logarithm of the mean of exp of the others (of all, where all are
    stored): in a place a class that is not stored then counts 0 and all of them together as much
    as they did. Published are plain logits, beside which 0 may be much or little.
    """
    order = np.argsort(-scores, axis=-1, kind="stable")
    ranked = np.take_along_axis(scores, order, -1).astype(np.float64)
    rest = ranked[..., top:] if top < ranked.shape[-1] else ranked
    peak = rest.max(-1, keepdims=True)
    level = peak + np.log(np.exp(rest - peak).mean(-1, keepdims=True))
    limit = float(np.finfo(np.float16).max)
    kept = np.clip(ranked[..., :top] - level, -limit, limit)
    return order[..., :top].astype(np.uint16), kept.astype(np.float16)


def pooled(classes: Tensor, scores: Tensor, boxes: Tensor, count: int) -> Tensor:
    """Probabilities of the classes within a crop: [batch, count], summing to 1.

    classes int64, scores float32: [batch, h, w, top], a score of 0 for those not stored; boxes:
    [batch, 4], y0, x0, y1, x1 in shares of the image. Region-of-interest alignment to one cell
    (arXiv:1703.06870, without its shift by half a cell), then softmax. Pooling is linear, so it is
    asked once what each place counts in a crop, and no map of all classes is made.
    """
    batch, height, width, top = scores.shape
    y0, x0, y1, x1 = boxes.float().unbind(1)
    first = torch.zeros_like(y0)
    corners = torch.stack([first, x0 * width, y0 * height, x1 * width, y1 * height], dim=1)
    places = torch.eye(height * width, device=scores.device).view(1, -1, height, width)
    weights = roi_align(places, corners, output_size=1, aligned=True).view(batch, -1, 1)
    weighted = (weights * scores.reshape(batch, -1, top)).view(batch, -1)
    total = torch.zeros(batch, count, device=scores.device)
    return total.scatter_add_(1, classes.reshape(batch, -1), weighted).softmax(-1)


def fault(row: Mapping[str, Any] | None, values: str, dims: int, count: int) -> str | None:
    """What is wrong with the stored outputs of a sample; None where nothing is.

    row: its columns; values: the one beside `classes`; dims: of both; count: of classes.
    """
    classes, shares = (row or {}).get("classes"), (row or {}).get(values)
    if classes is None and shares is None:
        return "it has no output of a teacher"
    if not isinstance(classes, np.ndarray) or not isinstance(shares, np.ndarray):
        return f"the outputs of its teacher lack classes or {values}"
    if classes.shape != shares.shape or classes.ndim != dims or not classes.size:
        return f"its teacher gave {values} {shares.shape} for classes {classes.shape}"
    if int(classes.max()) >= count:
        return f"its teacher tells class {int(classes.max())}, of {count} classes"
    if dims == VIEWS and not all(_told(row, name, len(shares)) for name in ("box", "flip")):
        return "the outputs of its teacher do not say of which views they are"
    if not np.isfinite(shares).all():
        return f"the {values} of its teacher are no numbers"
    if values == "probabilities":
        sums = shares.sum(-1, dtype=np.float64)
        if shares.min() < 0 or sums.min() <= 0 or sums.max() > 1 + SLACK:
            return f"the probabilities of its teacher sum to {sums.min():.3g} to {sums.max():.3g}"
    return None


def vectors_fault(row: Mapping[str, Any] | None, width: int) -> str | None:
    """As `fault`, of stored vectors."""
    vectors = (row or {}).get("vectors")
    if vectors is None:
        return "it has no output of a teacher"
    if not isinstance(vectors, np.ndarray) or vectors.ndim != VIEWS or vectors.shape[1] != width:
        shape = getattr(vectors, "shape", ())
        return f"its teacher's vectors are {shape}, not of {width} numbers for each view"
    if not all(_told(row, name, len(vectors)) for name in ("box", "flip")):
        return "the outputs of its teacher do not say of which views they are"
    return None if np.isfinite(vectors).all() else "the vectors of its teacher are no numbers"


def _told(row: Mapping[str, Any] | None, name: str, views: int) -> bool:
    """Whether each view has such a parameter of its augmentation."""
    found = (row or {}).get(name)
    return isinstance(found, np.ndarray) and len(found) == views
