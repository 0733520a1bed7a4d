"""All objectives on a device beside the processor: one that pretends to be a GPU, and a GPU."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import backend_registration

from pretrain import options

BACKENDS = "_setup_privateuseone_for_python_backend"
GOLDEN = Path(__file__).with_name("golden")
LOGGED = 9  # the step that is logged beside the first: between them nothing is to be waited for
TOLERANCE = {"pretend": 2e-3, "cuda": 2e-2}  # a GPU's convolutions are of 10 bits
# Where a run may wait for a GPU: lines of its metrics, what watches it then, and checkpoints.
WAITING = {
    "pretrain/ranks.py:Ranks.mean",
    "pretrain/health.py:Watch._measure",
    "pretrain/health.py:effective_rank",
    "pretrain/health.py:same_features",
    "pretrain/checkpoint.py:snapshot",
}
STAGES = [{"until": 0.5, "size": 16}, {"until": 1.0, "size": 32}]
SMALL_GRAM = json.loads(Path(__file__).with_name("small").joinpath("dinov3_gram.json").read_text())
UNMASKED = {**SMALL_GRAM["options"], "gram_scope": "batch", "gram_tokens": "unmasked"}
OTHERWISE: dict[str, tuple[str, dict[str, Any]]] = {
    "features kept": ("clip", {"micro_batch": 4}),
    "gradients added up": ("mae", {"micro_batch": 4}),
    "blocks made again": ("dino", {"grad_checkpointing": True}),
    "an average": ("supervised", {"ema": 0.9}),
    "gradients clipped": ("mae", {"clip_grad": 0.1}),
    "smaller images first": ("rotnet", {"curriculum": STAGES}),
    "layers at their own rates": ("mae", {"layer_decay": 0.7}),
    "patches by their mask": ("dinov3_gram", {"options": UNMASKED}),
    "lamb": ("mae", {"optimizer": "lamb"}),
    "sgd": ("mae", {"optimizer": "sgd"}),
}


def on_device(device: str, cases: dict[str, Any], folder: Path) -> dict[str, Any]:
    given, results = folder / "cases.json", folder / "results.json"
    given.write_text(json.dumps(cases))
    command = [sys.executable, "-m", "tests.pretrain.on_accelerator"]
    root = Path(__file__).parents[2]
    subprocess.run([*command, str(given), str(results), device], check=True, cwd=root)
    return json.loads(results.read_text())


@pytest.fixture(scope="module", params=["pretend", "cuda"])
def told(
    request: pytest.FixtureRequest,
    pairs: str,
    small: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    device = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if device == "pretend" and not hasattr(backend_registration, BACKENDS):
        pytest.skip(f"PyTorch {torch.__version__} takes no device that is written in Python")
    folder = tmp_path_factory.mktemp(device)
    wanted = {name: (name, {}) for name in options.names()} | OTHERWISE

    def cases(where: str) -> dict[str, Any]:
        return {
            name: {
                "settings": small(
                    objective, **{"log_every": LOGGED, "device": where, **changes}
                ).model_dump(mode="json"),
                "source": pairs,
                "folder": str(folder / where / name),
            }
            for name, (objective, changes) in wanted.items()
        }

    found = on_device(device, cases("auto"), folder)
    # Other versions of PyTorch begin with other weights: a GPU is compared with its own machine.
    same = on_device("cpu", cases("cpu"), folder) if device == "cuda" else None
    return {"device": device, "expected": same, **found}


def expected(objective: str, told: dict[str, Any]) -> dict[str, list[float]]:
    """The two lines by name."""
    if told["expected"] is not None:
        lines = told["expected"][objective]["found"]["lines"]
        return {name: [line[name] for line in lines] for name in lines[0]}
    golden = json.loads((GOLDEN / f"{objective}.json").read_text())
    return {name: [values[0], values[LOGGED - 1]] for name, values in golden.items()}


@pytest.mark.parametrize("objective", options.names())
def test_it_learns_what_a_processor_learns(objective: str, told: dict[str, Any]) -> None:
    outcome = told[objective]
    assert "error" not in outcome, outcome["error"]
    for name, values in expected(objective, told).items():
        if not name.endswith("accuracy"):
            found = [line[name] for line in outcome["found"]["lines"]]
            assert found == pytest.approx(values, rel=TOLERANCE[told["device"]], abs=1e-6), name


@pytest.mark.parametrize("case", [*options.names(), *OTHERWISE])
def test_it_goes_on_from_a_checkpoint_and_waits_for_nothing_between(
    case: str, told: dict[str, Any]
) -> None:
    outcome = told[case]
    assert "error" not in outcome, outcome["error"]
    found, again = outcome["found"], outcome["again"]
    assert (found["begun"], again["begun"]) == (0, 7)
    assert set(found["waits"]) <= WAITING
    assert all(found["files"].values()) and again["files"] == found["files"]
    exact = told["device"] == "pretend"
    assert again["weights"] == (
        found["weights"] if exact else pytest.approx(found["weights"], rel=1e-3, abs=1e-3)
    )


def test_what_would_fail_on_a_gpu_fails_on_the_one_that_pretends() -> None:
    """In a process of its own: it is known to PyTorch from then on."""
    code = """
import torch
from tests.accelerator import DEVICE, WAITS

there = torch.ones(3, device=DEVICE)
assert (there + 1).device == DEVICE and (there * 2).sum().cpu() == 6
for wrong in (lambda: there + torch.ones(3), lambda: there.numpy(), lambda: torch.ones(3) @ there):
    try:
        wrong()
    except (RuntimeError, TypeError):
        continue
    raise SystemExit("two devices went together")
WAITS.clear()
there[torch.tensor([0, 2])] += there.sum()
assert not WAITS
float(there[0]), there[there > 1], there.tolist(), there.nonzero(), there.to("cpu")
assert WAITS.total() == 5, WAITS
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
