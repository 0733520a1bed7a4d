"""A tiny CLIP with random weights, and small stores of real pictures made with it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from indexes.building import build_index
from indexes.encoder import ClipEncoder, folder_files
from indexes.settings import IndexSettings
from infra import artifacts, dataset, filesystem
from infra.artifacts import Artifact, Part, Spec
from infra.dataset import ROWS, make_uid, part_name, sample_key, write_shard, write_table
from infra.progress import SilentDisplay
from infra.runner import InlineRunner

TINY: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS: dict[str, Any] = {
    "size": 32,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.25, 0.3],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
HOSTILE = '<script>alert("x")</script> & "five" <img src=x onerror=alert(1)>'
PER_SHARD = 60
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def tiny_model(seed: int = 0) -> torch.nn.Module:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(seed)
    return CLIP(
        embed_dim=TINY["embed_dim"],
        vision_cfg=CLIPVisionCfg(**TINY["vision_cfg"]),
        text_cfg=CLIPTextCfg(**TINY["text_cfg"]),
    ).eval()


def write_model(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in folder_files(tiny_model(seed).state_dict(), TINY, PREPROCESS).items():
        (folder / name).write_bytes(data)
    return folder


def digits(count: int) -> tuple[list[np.ndarray], list[int]]:
    """Real handwritten digits, coloured, 48 x 48, and what they show."""
    from sklearn.datasets import load_digits

    data = load_digits()
    colours = np.random.default_rng(0).integers(80, 256, (count, 3))
    images = []
    for picture, colour in zip(data.images[:count], colours, strict=True):
        rgb = (picture[..., None] / 16 * colour).astype(np.uint8)
        images.append(np.asarray(Image.fromarray(rgb).resize((48, 48))))
    return images, data.target[:count].tolist()


def commit_part(url: str, spec: Spec, parts: list[Part]) -> Artifact:
    for part in parts:
        artifacts.record_part(url, part, 0.0, 0.0)
    return artifacts.commit(url, spec)


def shard_rows(shard: int, images: list[bytes], labels: list[int], dropped: set[int]) -> pa.Table:
    rows = []
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        caption = HOSTILE if row == 5 else f"a handwritten {NAMES[label]}, number {row}"
        url = f"https://example.org/{shard}/{row}.png"
        rows.append(
            {
                "uid": make_uid(url, caption, image),
                "shard": shard,
                "row": row,
                "status": "dropped" if row in dropped else "ok",
                "reason": "too_dark" if row in dropped else None,
                "key": sample_key(shard, row),
                "source": "digits",
                "url": url,
                "caption": caption,
                "sha256": None,
                "bytes": len(image),
                "format": "png",
                "width": 48 if row % 2 else 64,
                "height": 48,
                "meta": f'{{"concept": "{NAMES[label]}"}}',
            }
        )
    return pa.Table.from_pylist(rows, schema=ROWS)


def write_dataset(url: str, spec: Spec, shards: int, dropped: set[int]) -> Artifact:
    images, labels = digits(shards * PER_SHARD)
    parts = []
    for shard in range(shards):
        chosen = slice(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        encoded = []
        for image in images[chosen]:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            encoded.append(buffer.getvalue())
        rows = shard_rows(shard, encoded, labels[chosen], dropped)
        files = write_shard(url, shard, rows, list(encoded))
        counts = {"too_dark": len(dropped)} if dropped else {}
        kept = PER_SHARD - len(dropped)
        parts.append(Part(part_name(shard), tuple(files), PER_SHARD, kept, counts))
    return commit_part(url, spec, parts)


def write_scores(pool: dataset.Dataset, encoder: ClipEncoder, model: str) -> str:
    spec = Spec(
        "scores",
        "curation.scores.clip",
        {"model": model, "pretrained": None},
        (pool.artifact.digest,),
    )
    folder = f"clip-{spec.digest}"
    url = pool.artifact.path("scores", folder)
    images, _ = digits(len(pool.shards) * PER_SHARD)
    parts = []
    for shard in pool.shards:
        name = part_name(shard)
        image = encoder.encode_images(images[shard * PER_SHARD : (shard + 1) * PER_SHARD])
        image[7] = 0  # a row that could not be encoded
        captions = pool.rows(shard, ["caption"]).column("caption").to_pylist()
        text = encoder.encode_texts(captions)
        similarity = np.einsum("ij,ij->i", image, text).astype(np.float32)
        files = [write_table(url, f"columns/{name}.parquet", pa.table({"similarity": similarity}))]
        for vector, values in {"image": image, "text": text}.items():
            buffer = io.BytesIO()
            np.save(buffer, values)
            files.append(filesystem.write_bytes(url, f"{vector}/{name}.npy", buffer.getvalue()))
        parts.append(Part(name, tuple(files), PER_SHARD, PER_SHARD))
    commit_part(url, spec, parts)
    return folder


def make_store(root: Path, shards: int = 2, named: str | None = None) -> str:
    """A store with a pool, its CLIP scores, and a curated version of it; returns its URL.

    named: what the scores call their model, where that is not its path in the store.
    """
    store = str(root)
    model = write_model(root / "runs" / "filter" / "0123456789abcdef")
    spec = Spec("dataset", "ingest", {"source": "digits"})
    pool = write_dataset(f"{store}/pool/{spec.digest}", spec, shards, set())
    folder = write_scores(
        dataset.Dataset(pool),
        ClipEncoder.load(str(model)),
        named or "runs/filter/0123456789abcdef",
    )
    settings = {
        "source": {"dataset": "pool", "version": pool.digest},
        "scores": {"clip": folder},
        "verdicts": "none",
        "edges": None,
    }
    spec = Spec("dataset", "curate", settings, (pool.digest,))
    curated = write_dataset(f"{store}/curated/{spec.digest}", spec, shards, {0, 1, 2})
    dataset.publish(store, "pool", pool)
    dataset.publish(store, "curated", curated)
    return store


def make_index(store: str, name: str, settings: IndexSettings) -> Artifact:
    with InlineRunner() as runner:
        return build_index(dataset.open_dataset(store, name), settings, runner, SilentDisplay())


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def new_model() -> Callable[[Path, int], Path]:
    return write_model


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store whose curated version has an index; read only."""
    url = make_store(tmp_path_factory.mktemp("store"))
    make_index(url, "curated", IndexSettings())
    return url


@pytest.fixture(scope="session")
def new_store() -> Callable[..., str]:
    return make_store


@pytest.fixture
def fresh_store(tmp_path: Path) -> str:
    """A store of the test's own, without an index."""
    return make_store(tmp_path / "store", shards=1)


@pytest.fixture(scope="session")
def build() -> Callable[[str, str, IndexSettings], Artifact]:
    return make_index


@pytest.fixture(scope="session")
def hostile() -> str:
    return HOSTILE
