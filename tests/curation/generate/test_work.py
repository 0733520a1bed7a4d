"""The pool that is drawn: a row for every prompt and seed, whatever shards, workers and kills."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from curation.generate import pipeline
from curation.generate.model import find_model, fingerprint
from curation.generate.prompts import ALL, PromptsWork, prompts_draft
from curation.generate.reasons import PROMPT_CONTROL_CHARACTERS, PROMPT_TOO_LONG
from curation.generate.settings import GenerateSettings
from curation.generate.work import (
    GenerateWork,
    generate_draft,
    generate_items,
    image_seed,
    refuse_nothing,
)
from infra import artifacts
from infra.artifacts import Artifact, Part
from infra.dataset import Dataset
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner, Runner
from infra.stage import Draft, run_stage

LINES = ["a cat", "a dog", "a\x1b[2Jtree", "x" * 3000, "a house"]
PLAIN: dict[str, Any] = {"guidance_scale": 2, "steps": 2, "images_per_prompt": 2, "seed": 5}


def asked(model: Path, folder: Path, **changes: Any) -> GenerateSettings:
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(LINES))
    value = {"model": str(model), "prompts": {"file": str(prompts)}, "rows_per_shard": 4}
    return GenerateSettings.model_validate(value | PLAIN | changes)


def drafts(store: Path, settings: GenerateSettings) -> tuple[Draft, Draft, GenerateWork]:
    listed = prompts_draft(str(store), "pool", settings.prompts, None)
    model = find_model(settings.model, None, settings.safety)
    draft = generate_draft(str(store), "pool", settings, model, listed)
    return listed, draft, GenerateWork(draft.url, listed.url, settings, model, "float32")


def make(store: Path, settings: GenerateSettings, runner: Runner | None = None) -> Artifact:
    """The version that the settings stand for, made as a run makes it."""
    listed, draft, work = drafts(store, settings)
    here, shown = InlineRunner(), SilentDisplay()
    every = PromptsWork(listed.url, settings.prompts)
    prompts = run_stage("prompts", {"": listed}, [ALL], every, here, shown)[""]
    items = generate_items(settings, prompts)
    with runner or here as chosen:
        made = run_stage("generate", {"": draft}, items, work, chosen, shown, refuse_nothing)
    return made[""]


def rows(artifact: Artifact) -> list[dict[str, Any]]:
    dataset = Dataset(artifact)
    return [row for shard in dataset.shards for row in dataset.rows(shard).to_pylist()]


@pytest.fixture(scope="module")
def made(diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("made")
    return make(folder / "store", asked(diffusion, folder))


def test_every_prompt_and_seed_is_a_row(made: Artifact) -> None:
    found = rows(made)
    assert len(found) == 2 * len(LINES)
    assert [row["reason"] for row in found] == 2 * [
        None, None, PROMPT_CONTROL_CHARACTERS, PROMPT_TOO_LONG, None,
    ]  # fmt: skip
    states = Counter(row["reason"] for row in found)
    assert made.totals["rows"] == len(found) and made.totals["kept"] == states.pop(None)
    assert made.totals["dropped"] == states
    assert len({row["uid"] for row in found}) == len(found)
    stored = [sample for shard in Dataset(made).shards for sample in Dataset(made).samples(shard)]
    assert len(stored) == made.totals["kept"]
    for row in found:
        assert (row["status"] == "ok") == (row["reason"] is None) == (row["sha256"] is not None)
    assert artifacts.verify(made) == []


def test_a_row_tells_what_decided_its_image(made: Artifact, diffusion: Path) -> None:
    for number, row in enumerate(rows(made)):
        meta = json.loads(row["meta"])
        if row["status"] != "ok":
            assert meta["prompt"] == row["caption"] and meta["chunk"] is None
            continue
        line = LINES[number % len(LINES)]
        repeat = number // len(LINES)
        assert row["caption"] == line
        assert meta == {
            "prompt": line, "negative_prompt": "", "guidance_scale": 2.0, "steps": 2, "seed": 5,
            "number": repeat, "noise_seed": image_seed(5, line, repeat), "options": {},
            "scheduler": "DDIMScheduler", "size": [row["width"], row["height"]],
            "model": diffusion.name, "fingerprint": fingerprint(diffusion),
            "pipeline": "StableDiffusionPipeline", "precision": "float32", "safety": True,
            "chunk": 4,
        }  # fmt: skip


def test_images_do_not_depend_on_shards(made: Artifact, diffusion: Path, tmp_path: Path) -> None:
    def images(artifact: Artifact) -> dict[str, str]:
        return {row["source"]: row["sha256"] for row in rows(artifact) if row["sha256"]}

    folder = Path(made.url).parents[2]
    other = make(tmp_path, asked(diffusion, folder, rows_per_shard=3))
    assert other.digest != made.digest and images(other) == images(made)
    fewer = make(tmp_path, asked(diffusion, folder, images_per_prompt=1))
    assert images(fewer).items() < images(made).items()


@pytest.mark.parametrize(
    "change",
    [
        {"guidance_scale": 3}, {"steps": 3}, {"seed": 6}, {"negative_prompt": "x"},
        {"scheduler": "DDPMScheduler"}, {"size": [40, 32]}, {"options": {"clip_skip": 1}},
        {"images_per_prompt": 1}, {"chunk": 2}, {"format": "jpg"}, {"precision": "bfloat16"},
        {"variant": "fp16"}, {"safety": False},
    ],
)  # fmt: skip
def test_what_is_asked_for_is_in_the_digest(
    diffusion: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    plain, changed = asked(diffusion, tmp_path), asked(diffusion, tmp_path, **change)
    assert drafts(tmp_path, plain)[1].spec.digest != drafts(tmp_path, changed)[1].spec.digest


def test_where_the_model_lies_is_not_in_the_digest(diffusion: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(diffusion, tmp_path / diffusion.name))
    before = drafts(tmp_path, asked(diffusion, tmp_path))[1].spec.digest
    assert drafts(tmp_path, asked(copy, tmp_path))[1].spec.digest == before
    (copy / "unet" / "config.json").write_text("{}")
    assert drafts(tmp_path, asked(copy, tmp_path))[1].spec.digest != before


@pytest.mark.parametrize("form", ["png", "webp", "jpg"])
def test_files_hold_the_pixels(diffusion: Path, tmp_path: Path, form: str) -> None:
    settings = asked(diffusion, tmp_path, format=form, images_per_prompt=1)
    dataset = Dataset(make(tmp_path, settings))
    wanted = [("a cat", image_seed(5, "a cat", 0))]
    (drawn,) = pipeline.load(find_model(settings.model, None, True), settings, "float32").draw(
        wanted
    )
    sample = next(iter(dataset.samples(0)))
    pixels = np.asarray(Image.open(io.BytesIO(sample.image)).convert("RGB"), np.int16)
    assert drawn.image is not None
    error = np.abs(pixels - drawn.image)
    assert error.max() == 0 if form != "jpg" else error.mean() < 8


def test_where_nothing_was_drawn_the_reasons_are_told() -> None:
    part = Part("00000", (), 3, 0, {"unsafe": 2, "blank_image": 1})
    with pytest.raises(SluiceError, match="1 blank_image, 2 unsafe"):
        refuse_nothing({"": [part]})


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"guidance_scale": -1}, "greater than or equal to 0"),
        ({"steps": 0}, "greater than 0"),
        ({"size": [4, 64]}, "greater than or equal to 8"),
        ({"size": 64}, "valid tuple"),
        ({"scheduler": "../x"}, "match pattern"),
        ({"options": {"generator": 1}}, "has a setting of its own"),
        ({"format": "gif"}, "'png', 'jpg' or 'webp'"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        asked(tmp_path, tmp_path, **wrong)


def test_guidance_and_steps_have_no_default(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as error:
        GenerateSettings.model_validate({"model": "m", "prompts": {"classes": ["cat"]}})
    assert {each["loc"][0] for each in error.value.errors()} == {"guidance_scale", "steps"}


KILLED = """
if __name__ == "__main__":  # else each worker would import it all
    import sys
    from pathlib import Path
    from infra.runner import LocalRunner
    from tests.curation.generate.test_work import asked, make
    store, model, folder = map(Path, sys.argv[1:])
    make(store, asked(model, folder, rows_per_shard=1), LocalRunner(2))
"""


@pytest.mark.long
def test_killed_among_its_workers_the_bytes_are_the_same(diffusion: Path, tmp_path: Path) -> None:
    """Two processes draw, all are killed, this one goes on; against one that does it all."""
    settings = asked(diffusion, tmp_path, rows_per_shard=1)
    whole, store = make(tmp_path / "whole", settings), tmp_path / "store"
    url = drafts(store, settings)[1].url
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, "killed.py", str(store), str(diffusion), str(tmp_path)]
    here = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=here, cwd=tmp_path, start_new_session=True)
    while process.poll() is None and len(artifacts.recorded_names(url)) < 4:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = artifacts.recorded_names(url)
    assert 4 <= len(done) < 10 and artifacts.load(url) is None
    kept = {name: Path(url, "rows", f"{name}.parquet").stat().st_mtime_ns for name in done}
    resumed = make(store, settings)
    assert (resumed.digest, resumed.content) == (whole.digest, whole.content)
    assert artifacts.verify(resumed) == []
    for name, before in kept.items():
        assert Path(url, "rows", f"{name}.parquet").stat().st_mtime_ns == before
    assert not list(store.rglob("_tmp")) and not list(store.rglob("_parts"))
