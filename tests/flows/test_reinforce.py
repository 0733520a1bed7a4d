"""A teacher in a recipe: its outputs are columns of the curated version, which a student reads."""

import shutil
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from flows.main import Options, prepare
from flows.step import Session
from infra import artifacts
from infra.dataset import open_dataset
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from tests.flows.conftest import SMALL


def test_a_student_learns_from_what_the_recipe_asks_a_teacher(
    tmp_path: Path, curated_store: Path
) -> None:
    store, weights = tmp_path / "store", tmp_path / "teacher.safetensors"
    shutil.copytree(curated_store, store)
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), weights)
    network = f"{{network: timm:test_resnet, weights: {weights}, image_size: 32}}"
    teacher = f"{{kind: reinforce, teachers: [{network}], classes: [a, b, c], views: 2}}"
    student = "{objective: teacher_records, model: test_resnet, image_size: 32, batch: 8, steps: 2"
    changes = (
        *SMALL,
        "run.executor=inline",
        f"annotate.teacher={teacher}",
        "pretrain.student={sources: {curated: 1}, train: "
        f"{student}, threads: 1, device: cpu, options: {{classes: [a, b, c]}}}}}}",
    )
    steps = prepare(Options(None, changes, str(store))).pipeline.steps
    session = Session(InlineRunner(), SilentDisplay(), "local")
    asked, learns = steps["annotate teacher"], steps["pretrain student"]
    assert "annotate teacher" in learns.needs and "curated version" in asked.needs
    asked.run(session)
    learns.run(session)
    made, run = (artifacts.load(step.draft.url) for step in (asked, learns))
    curated = open_dataset(str(store), "curated").artifact
    assert made is not None and run is not None
    assert made.url.startswith(f"{curated.url}/scores/teacher-")
    assert made.totals["kept"] == curated.totals["kept"] < made.totals["rows"]
    assert made.manifest["extra"]["outputs"] == 2 * made.totals["kept"]
    assert run.settings["columns"] == {"teacher": made.url.rpartition("/")[2]}
