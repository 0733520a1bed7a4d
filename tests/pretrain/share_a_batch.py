"""Gradients of the losses over pairs in two processes, against those of one. Run as

    python -m tests.pretrain.share_a_batch <rank> <rendezvous file> <teacher> <results.json>

in three processes: the third takes part in passing tensors round alone.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

BATCH = 8
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "clip global": ("clip", {}),
    "clip local_exact": ("clip", {"negatives": "local_exact"}),
    "clip local_exact, equal captions": (
        "clip",
        {"negatives": "local_exact", "same_caption": "positive"},
    ),
    "clip local_exact, nested": ("clip", {"negatives": "local_exact", "prefixes": [4, 8]}),
    "siglip": ("siglip", {"init_bias": -3.0}),
    "siglip in chunks": ("siglip", {"init_bias": -3.0, "chunk": 3}),
    "siglip in chunks, nested": ("siglip", {"init_bias": -3.0, "chunk": 3, "prefixes": [4]}),
    "albef_itc": ("albef_itc", {"queue": 20, "alpha_warmup": 0.0}),
    "clip_distill global": ("clip_distill", {}),
    "clip_distill local_exact": ("clip_distill", {"negatives": "local_exact"}),
}


def make(name: str, options: Mapping[str, Any], teacher: str) -> Any:
    from pretrain import objectives
    from pretrain.settings import TrainSettings

    own = json.loads(Path(__file__).with_name("small").joinpath(f"{name}.json").read_text())
    if name == "clip_distill":
        options = {**options, "teacher": teacher}
    given = {**own, "objective": name, "image_size": 32, "batch": BATCH, "options": options}
    return objectives.build(TrainSettings.model_validate(given)).train()


def outcome(objective: Any, module: Any, views: Mapping[str, Any]) -> dict[str, Any]:
    """The loss, its figures, all gradients, and the buffers after a pass forth and back."""
    loss, figures = module(views, 0.5)
    loss.backward()
    grads = {
        name: value.grad for name, value in objective.named_parameters() if value.requires_grad
    }
    told = {name: figure.detach().double().mean() for name, figure in figures.items()}
    return {
        "loss": loss.detach(),
        "grads": grads,
        "told": told,
        "kept": dict(objective.named_buffers()),
    }


def whole_and_shared(case: str, rank: int, teacher: str) -> tuple[Any, Any]:
    """An objective of this case and its views: of all samples, and of those of this process."""
    from tests.pretrain.batches import batch

    objective = make(*CASES[case], teacher)
    captions = ["a", "b", "c", "a", "a", "d", "b", "e"]
    views = objective.views(batch(BATCH, captions=captions), torch.device("cpu"))
    return objective, views if rank < 0 else shares(views, rank)


def shares(views: Mapping[str, Any], rank: int) -> dict[str, Any]:
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    return {name: value if value is None else value[half] for name, value in views.items()}


def compared(case: str, rank: int, teacher: str, expected: Any) -> dict[str, float]:
    """How far two processes are from one: largest differences, and the largest gradient."""
    objective, views = whole_and_shared(case, rank, teacher)
    found = outcome(objective, DistributedDataParallel(objective, broadcast_buffers=False), views)
    told = torch.stack([found["loss"].double(), *found["told"].values()])
    distributed.all_reduce(told)
    if expected is None:
        return {}
    wanted = torch.stack([expected["loss"].double(), *expected["told"].values()])
    grads = expected["grads"]
    off = {name: (found["grads"][name] - value).abs().max().item() for name, value in grads.items()}
    scalars = {name: off[name] for name in ("model.logit_scale", "model.logit_bias") if name in off}
    return {
        "gradient": max(off.values()),
        "largest": max(value.abs().max().item() for value in grads.values()),
        "scale": grads["model.logit_scale"].abs().item(),
        **scalars,
        "told": (told / 2 - wanted).abs().max().item(),
        "kept": max(
            [0.0]
            + [
                (value - expected["kept"][name]).abs().max().item()
                for name, value in found["kept"].items()
                if name.endswith("queue") or name == "place"
            ]
        ),
    }


def round_three(rank: int) -> dict[str, float]:
    """The sigmoid loss of three processes, chunked and not, against the same of one."""
    from pretrain.distributed import around, gather
    from pretrain.objectives.siglip import siglip_loss

    drawn = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))

    def graded(rows: slice, chunk: int | None, alone: bool) -> list[Tensor]:
        vectors = drawn.clone().requires_grad_(True)
        scale, bias = torch.tensor(4.0).requires_grad_(), torch.tensor(-2.0).requires_grad_()
        image, text = (normalize(each[rows], dim=1) for each in vectors)
        if alone:
            logits = scale * image @ text.T + bias
            signs = 2 * torch.eye(6) - 1
            loss = -torch.nn.functional.logsigmoid(signs * logits).sum() / 6
        else:
            loss = siglip_loss(image, text, scale, bias, chunk)
        loss.backward()
        return [vectors.grad, scale.grad, bias.grad, loss.detach()]  # type: ignore[list-item]

    own = slice(2 * rank, 2 * rank + 2)
    off = {}
    for chunk in (None, 1):
        for name, value, wanted in zip(
            ("vectors", "scale", "bias", "loss"),
            graded(own, chunk, alone=False),
            graded(slice(None), None, alone=True),
            strict=True,
        ):
            distributed.all_reduce(value)
            off[f"{name}, chunk {chunk}"] = (value / 3 - wanted).abs().max().item()
    mine = torch.tensor([float(rank)])
    assert torch.cat(list(around(mine))).tolist() == [(rank - step) % 3 for step in range(3)]
    assert gather(mine).tolist() == [0, 1, 2]
    return off


def main(rank: int, meeting: str, teacher: str, results: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}3", rank=rank, world_size=3
    )
    found: dict[str, Any] = {"three": round_three(rank)}
    distributed.destroy_process_group()
    if rank == 2:
        return
    expected: dict[str, Any] = dict.fromkeys(CASES)
    if rank == 0:  # in one process: no group is there
        for case in CASES:
            objective, views = whole_and_shared(case, -1, teacher)
            expected[case] = outcome(objective, objective, views)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}2", rank=rank, world_size=2
    )
    for case in CASES:
        found[case] = compared(case, rank, teacher, expected[case])
    from pretrain.objectives import clip

    exact, clip.gather = clip.gather, lambda values: exact(values.detach())  # type: ignore
    found["partial"] = compared("clip local_exact", rank, teacher, expected["clip local_exact"])
    distributed.destroy_process_group()
    if rank == 0:
        Path(results).write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
