"""Small runs and labelled dataset versions for the tests of encoders and evaluation."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infra import artifacts
from infra.artifacts import Part, Spec
from infra.dataset import ROWS, make_uid, sample_key, write_shard
from infra.digests import generator

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 210)}
PREPROCESS = {
    "size": 32,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
TINY_VIT: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 1,
    "num_heads": 2,
}


def picture(name: str, number: int, key: str) -> np.ndarray:
    rng = generator("picture", key, name, number)
    height, width = rng.integers(20, 60, 2)
    noise = rng.normal(0, 25, (height, width, 3))
    return np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_version(
    folder: Path, samples: Sequence[tuple[bytes, dict[str, Any]]], per_shard: int = 16
) -> str:
    """A dataset version of (image bytes, meta) pairs; returns its URL."""
    url = str(folder)
    parts = []
    for shard, start in enumerate(range(0, len(samples), per_shard)):
        chunk = samples[start : start + per_shard]
        rows = [
            {
                "uid": make_uid(f"{folder.name}/{start + row}", "", data),
                "shard": shard,
                "row": row,
                "status": "ok",
                "key": sample_key(shard, row),
                "caption": meta.get("caption", ""),
                "format": "png",
                "meta": json.dumps(meta),
            }
            for row, (data, meta) in enumerate(chunk)
        ]
        table = pa.Table.from_pylist(rows, schema=ROWS)
        files = write_shard(url, shard, table, [data for data, _ in chunk])
        part = Part(f"{shard:05d}", tuple(files), len(chunk), len(chunk))
        artifacts.record_part(url, part, 0, 0)
        parts.append(part)
    artifacts.commit(url, Spec("dataset", "test", {"name": folder.name}))
    return url


@pytest.fixture(scope="session")
def colour_splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """URLs of a train and a test version: noisy pictures of three colours, 40 and 20 each."""
    folder = tmp_path_factory.mktemp("splits")
    urls = []
    for split, count in (("train", 40), ("test", 20)):
        samples = [
            (png(picture(name, number, split)), {"concept": name})
            for number in range(count)
            for name in COLOURS
        ]
        urls.append(write_version(folder / split, samples))
    return urls[0], urls[1]


def write_clip_run(folder: Path, seed: int) -> str:
    """A CLIP run with random weights, committed, in open_clip's folder format."""
    import torch
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    from indexes.encoder import folder_files

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(
            embed_dim=TINY_CLIP["embed_dim"],
            vision_cfg=CLIPVisionCfg(**TINY_CLIP["vision_cfg"]),
            text_cfg=CLIPTextCfg(**TINY_CLIP["text_cfg"]),
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in folder_files(model.state_dict(), TINY_CLIP, PREPROCESS).items():
        (folder / name).write_bytes(data)
    artifacts.commit(str(folder), Spec("run", "pretrain.clip", {"seed": seed}))
    return str(folder)


def write_image_run(folder: Path, objective: str, seed: int, **kwargs: Any) -> str:
    """A DINO or MAE run with random weights, committed."""
    import timm
    import torch
    from safetensors.torch import save

    options = {**TINY_VIT, **kwargs}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options)
    config = {
        "objective": objective,
        "timm_name": "vit_tiny_patch16_224",
        "timm_kwargs": options,
        "image_size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(save(model.state_dict()))
    artifacts.commit(str(folder), Spec("run", f"pretrain.{objective}", {"seed": seed}))
    return str(folder)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URLs of three runs by objective, all with random weights."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "clip": write_clip_run(folder / "clip", 5),
        "dino": write_image_run(folder / "dino", "dino", 6),
        "mae": write_image_run(folder / "mae", "mae", 7),
    }


@pytest.fixture(scope="session")
def image_run() -> Callable[..., str]:
    """Writes one more DINO or MAE run: (folder, objective, seed, **timm arguments)."""
    return write_image_run


@pytest.fixture(scope="session")
def version() -> Callable[..., str]:
    """Writes one more dataset version: (folder, [(image bytes, meta)])."""
    return write_version


def taught(name: str) -> dict[str, Any]:
    """Fields that objectives with labels learn from."""
    return {"class": name, "labels": [name]}


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a version to train on: 60 noisy pictures of three colours with captions."""
    samples = [
        (
            png(picture(name, number, "pairs")),
            {"concept": name, "caption": f"{name} no {number}", **taught(name)},
        )
        for number in range(20)
        for name in COLOURS
    ]
    from tests.pretrain.taught import write_taught

    return write_taught(write_version(tmp_path_factory.mktemp("pairs") / "pairs", samples))


@pytest.fixture(scope="session")
def fractals(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a drawn version: 40 fractals of 4 systems, in four shards without files."""
    from curation.synthetic.fractals import fractal_items, fractals_draft, fractals_work
    from curation.synthetic.settings import FractalSettings

    few = FractalSettings(systems=4, instances=10, size=40, points=1000, rows_per_shard=10)
    draft = fractals_draft(str(tmp_path_factory.mktemp("drawn")), few)
    work = fractals_work(draft.url, few)
    for item in fractal_items(few):
        artifacts.record_part(draft.url, work(item.value, [item.name])[item.name], 0, 0)
    artifacts.commit(draft.url, draft.spec)
    return draft.url


@pytest.fixture(scope="session")
def greys(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a second version, 24 samples, of which the image of the sixth is damaged."""
    samples = [
        (
            png(np.full((24, 24, 3), 10 * number, np.uint8)),
            {"caption": f"grey {number}", **taught("red")},
        )
        for number in range(24)
    ]
    samples[5] = (samples[5][0][:40], samples[5][1])
    from tests.pretrain.taught import write_taught

    folder = tmp_path_factory.mktemp("greys") / "greys"
    return write_taught(write_version(folder, samples, per_shard=8))


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a version whose four images all are damaged."""
    samples = [(png(picture("red", number, "broken"))[:50], {}) for number in range(4)]
    return write_version(tmp_path_factory.mktemp("broken") / "broken", samples)


SMALL = Path(__file__).with_name("small")  # of each objective, what makes it quick


@pytest.fixture(scope="session")
def small(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """small(objective, **changes) -> TrainSettings of 20 quick steps on one thread.

    An option "run:<objective>" in the file stands for the folder of a run out of `runs`.
    """
    from pretrain.settings import TrainSettings

    def make(objective: str, **changes: Any) -> TrainSettings:
        common = {
            "objective": objective,
            "image_size": 32,
            "batch": 8,
            "steps": 20,
            "threads": 1,
            "device": "cpu",
            "log_every": 1,
            "checkpoint_every": 7,
            "shuffle": 40,
        }
        own = json.loads((SMALL / f"{objective}.json").read_text())
        for name, value in own.get("options", {}).items():
            if isinstance(value, str) and value.startswith("run:"):
                runs = request.getfixturevalue("runs")
                own["options"][name] = runs[value.removeprefix("run:")]
        return TrainSettings.model_validate({**own, **common, **changes})

    return make
