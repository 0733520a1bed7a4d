import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from pretrain.distributed import around, gather, rank, world
from tests.pretrain.share_a_batch import CASES

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(
    runs: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Mapping[str, float]]:
    """How far the gradients of two processes are from those of one, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    given = [str(folder / "meeting"), runs["clip"], str(folder / "results.json")]
    command = [sys.executable, "-m", "tests.pretrain.share_a_batch"]
    workers = [
        subprocess.Popen([*command, str(number), *given], cwd=ROOT, stderr=subprocess.PIPE)
        for number in range(3)
    ]
    try:
        said = [worker.communicate(timeout=240)[1].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert all(worker.returncode == 0 for worker in workers), "\n".join(said)
    return json.loads((folder / "results.json").read_text())


def test_one_process_is_left_alone() -> None:
    values = torch.ones(3, requires_grad=True)
    assert (world(), rank()) == (1, 0)
    assert gather(values) is values
    assert [each is values for each in around(values)] == [True]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_gradient_of_one(
    case: str, found: Mapping[str, Mapping[str, float]]
) -> None:
    off = found[case]
    assert off["gradient"] < TOLERANCE * max(1.0, off["largest"] / 10)  # float32: 7 digits
    assert off["model.logit_scale"] < TOLERANCE
    assert off.get("model.logit_bias", 0) < TOLERANCE
    assert ("model.logit_bias" in off) == case.startswith("siglip")
    assert off["largest"] > 1e-2 and off["scale"] > 1e-3  # there is something to compare
    assert off["kept"] < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_the_mean_of_their_losses_is_the_loss(
    case: str, found: Mapping[str, Mapping[str, float]]
) -> None:
    if case.startswith("siglip"):  # its accuracy is among the samples of a process
        return
    assert found[case]["told"] < TOLERANCE


def test_without_the_gradient_of_the_columns_it_would_not_be(
    found: Mapping[str, Mapping[str, float]],
) -> None:
    """The trap: each process's own rows against embeddings without gradient."""
    assert found["partial"]["gradient"] > 1e-3
    assert found["partial"]["told"] < TOLERANCE


def test_three_processes_pass_texts_round(found: Mapping[str, Mapping[str, float]]) -> None:
    assert len(found["three"]) == 8
    assert max(found["three"].values()) < 1e-6
