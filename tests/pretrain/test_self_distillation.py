import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from infra.errors import SluiceError
from pretrain.heads import Head
from pretrain.self_distillation import (
    centred,
    koleo_loss,
    patch_loss,
    ramp,
    recentre,
    sinkhorn,
    spread,
    view_loss,
)
from pretrain.teacher import cosine, follow, never_drops, take


def slow_sinkhorn(logits: np.ndarray, cool: float, rounds: int) -> np.ndarray:
    """Row by row and column by column, as published, in float64."""
    table = np.exp(logits.astype(np.float64) / cool).T
    prototypes, samples = table.shape
    table /= table.sum()
    for _ in range(rounds):
        for row in range(prototypes):
            table[row] /= table[row].sum() * prototypes
        for column in range(samples):
            table[:, column] /= table[:, column].sum() * samples
    return (table * samples).T


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("shape", [(12, 5), (4, 30)])
def test_sinkhorn_is_the_slow_loop(shape: tuple[int, int], rounds: int) -> None:
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = sinkhorn(torch.from_numpy(logits), 0.07, rounds).numpy()
    np.testing.assert_allclose(found, slow_sinkhorn(logits, 0.07, rounds), rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_sinkhorn_takes_logits_that_overflow_without_a_shift() -> None:
    logits = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)) * 30
    assert torch.isinf((logits / 0.04).exp()).any()
    found = sinkhorn(logits, 0.04)
    assert torch.isfinite(found).all()
    assert torch.allclose(found.sum(1), torch.ones(16))
    shifted = sinkhorn(logits + 500, 0.04)
    assert torch.allclose(found, shifted, atol=1e-2)
    far = torch.zeros(3, 4)
    far[0] = 1000.0  # the others are e^-25000 of it, and keep their targets
    assert torch.allclose(sinkhorn(far, 0.04), torch.full((3, 4), 0.25))


def test_sinkhorn_shares_the_prototypes_evenly() -> None:
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    logits[:, 0] += 2  # one that most samples would choose
    assert centred(logits, torch.zeros(8), 0.07).mean(0)[0] > 0.5
    assert torch.allclose(sinkhorn(logits, 0.5, 30).mean(0), torch.full((8,), 1 / 8), atol=1e-3)
    assert sinkhorn(logits, 0.07).mean(0)[0] < 0.25  # three rounds get near
    alike = spread(sinkhorn(torch.ones(6, 8).cumsum(1), 0.07))  # collapse: all images alike
    assert alike["entropy"] > 0.99


def test_patch_loss_is_the_direct_formula() -> None:
    rng = np.random.default_rng(0)
    student, targets = rng.normal(size=(5, 7)), rng.dirichlet(np.ones(7), 5)
    counts = [2, 2, 3, 3, 3]  # two images with hidden patches, of four
    wanted = 0.0
    for row, count in enumerate(counts):
        given = student[row] / 0.1
        log = given - np.log(np.exp(given).sum())
        wanted += -(targets[row] * log).sum() / count / 4
    found = patch_loss(
        torch.from_numpy(student), torch.from_numpy(targets), 1 / torch.tensor(counts), 4, 0.1
    )
    assert found.item() == pytest.approx(wanted, rel=1e-6)


def test_view_loss_mixes_by_terms() -> None:
    """2 pairs of large views and 2 * local ones, each mean scaled by its terms."""
    rng = torch.Generator().manual_seed(0)
    student = torch.randn(5, 3, 6, generator=rng)
    targets = torch.randn(2, 3, 6, generator=rng).softmax(-1)
    logs = (student / 0.1).log_softmax(-1)
    cross = -torch.einsum("tbk,vbk->tv", targets, logs) / 3
    large, small = (cross[0, 1] + cross[1, 0]) / 2, cross[:, 2:].mean()
    assert torch.allclose(view_loss(student, targets, 0.1), large * 2 / 8 + small * 6 / 8)


def test_koleo_is_the_direct_formula() -> None:
    features = np.random.default_rng(0).normal(size=(6, 4))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    terms = []
    for row in range(6):
        dots = [unit[row] @ unit[other] if other != row else -1 for other in range(6)]
        terms.append(-math.log(np.linalg.norm(unit[row] - unit[int(np.argmax(dots))]) + 1e-8))
    loss, near = koleo_loss(torch.from_numpy(features))
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-4)
    assert near == 0


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_duplicates_give_koleo_no_infinity(kind: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(5, 8, generator=rng).to(kind)
    features[3] = features[1]
    features.requires_grad_()
    loss, near = koleo_loss(features)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss < 2 * -math.log(1e-8) / 5 + 2
    assert near == pytest.approx(1 / 10)
    assert features.grad is not None and torch.isfinite(features.grad).all()
    collapsed, all_near = koleo_loss(torch.ones(4, 8))
    assert collapsed.item() == pytest.approx(-math.log(1e-8))
    assert all_near == 1
    with pytest.raises(SluiceError, match="there is one"):
        koleo_loss(torch.ones(1, 8))


SHARED = """
import sys, torch
from torch import distributed
from pretrain.self_distillation import recentre, sinkhorn
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
logits = torch.load(f"{out}/logits.pt")
own = logits[:4] if rank == 0 else logits[4:]  # of unequal numbers, as hidden patches may be
targets, center = sinkhorn(own, 0.07), torch.zeros(logits.shape[1])
recentre(center, logits[rank::2], 0.9)
torch.save((targets, center), f"{out}/{rank}.pt")
distributed.destroy_process_group()
"""


@pytest.mark.long
@pytest.mark.slow
def test_samples_of_all_processes_count(tmp_path: Path) -> None:
    logits = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    torch.save(logits, tmp_path / "logits.pt")
    command = [sys.executable, "-c", SHARED]
    own = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store"), str(tmp_path)])
        for rank in range(2)
    ]
    assert [process.wait(120) for process in own] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole, center = sinkhorn(logits, 0.07), torch.zeros(6)
    recentre(center, logits, 0.9)
    assert torch.allclose(torch.cat([targets for targets, _ in found]), whole, atol=1e-5)
    for _, own_center in found:
        assert torch.allclose(own_center, center, atol=1e-6)


def test_a_centre_is_a_running_mean() -> None:
    center = torch.zeros(3)
    recentre(center, torch.tensor([[1.0, 2, 3], [3, 2, 1]]), 0.9)
    assert torch.allclose(center, torch.full((3,), 0.2))


def test_schedules() -> None:
    assert ramp(0.04, 0.07, 0.3, 0.15) == pytest.approx(0.055)
    assert ramp(0.04, 0.07, 0.3, 0.9) == ramp(0.04, 0.07, 0.0, 0.0) == 0.07
    assert cosine(0.992, 1.0, 0.0) == pytest.approx(0.992)
    assert cosine(0.992, 1.0, 0.5) == pytest.approx(0.996)


def test_an_average_leaves_the_teachers_running_statistics_alone() -> None:
    """DINO averages parameters alone: batch norms of the teacher keep their own buffers."""
    student, teacher = (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(2))
    take(teacher, student)
    student(torch.randn(8, 3) + 5)
    with torch.no_grad():
        student[0].bias += 1
    before = teacher[0].bias.clone()
    follow(teacher, student, 0.9)
    assert torch.allclose(teacher[0].bias, before + 0.1)
    assert torch.equal(teacher[1].running_mean, torch.zeros(3))
    teacher(torch.randn(8, 3) + 5)  # its own passes make them
    assert not torch.equal(teacher[1].running_mean, torch.zeros(3))
    assert not any(p.requires_grad for p in teacher.parameters())
    take(teacher, student)
    assert torch.equal(teacher[1].running_mean, student[1].running_mean)


def test_a_teacher_never_drops() -> None:
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=4,
        embed_dim=12,
        depth=2,
        num_heads=2,
        drop_path_rate=0.5,
        proj_drop_rate=0.5,
        attn_drop_rate=0.5,
        pos_drop_rate=0.5,
    ).train()
    images = torch.randn(4, 3, 16, 16)
    assert not torch.equal(model(images), model(images))
    never_drops(model)
    assert torch.equal(model(images), model(images))
    assert torch.equal(model(images), model.eval()(images))


def test_a_gain_is_learnt_and_rests_with_the_last_layer() -> None:
    plain, free = Head(6, 8, 4, 9), Head(6, 8, 4, 9, gain=True)
    assert plain.gain is None
    assert free.gain is not None
    free(torch.randn(5, 6)).sum().backward()
    assert free.gain.grad is not None
    free.rest_last_layer()
    assert free.gain.grad is None and free.last.weight.grad is None
    assert free.layers[0].weight.grad is not None
    with torch.no_grad():
        free.gain *= 3
    assert free(torch.randn(50, 6)).abs().max() > 1
