"""The CLIP scorer, on a real open_clip model of random weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation.score import Batch, Scores, score_draft
from curation.scores.clip import ClipScorer, best_precision, margins, reference_captions
from indexes.encoder import ClipEncoder, folder_files
from infra import artifacts
from infra.artifacts import Part, Spec
from infra.dataset import ROWS, write_table
from infra.errors import SluiceError

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {
    "size": 32,
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
CAPTIONS = ["a red square", "a blue square", "a red square", "noise"]


def write_model(folder: Path, seed: int = 0) -> Path:
    import torch
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(seed)
    model = CLIP(
        embed_dim=16,
        vision_cfg=CLIPVisionCfg(**CONFIG["vision_cfg"]),
        text_cfg=CLIPTextCfg(**CONFIG["text_cfg"]),
    )
    folder.mkdir(parents=True)
    for name, data in folder_files(model.state_dict(), CONFIG, PREPROCESS).items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run and a trusted dataset version."""
    store = tmp_path_factory.mktemp("store")
    write_model(store / "runs/filter/0123")
    url = str(store / "trusted/v")
    for shard, captions in enumerate([["zero", "one", "zero"], ["two", "lost", "three"]]):
        rows = [{"caption": c, "status": "rejected" if c == "lost" else "ok"} for c in captions]
        table = pa.Table.from_pylist(rows, ROWS)
        file = write_table(url, f"rows/{shard:05d}.parquet", table)
        artifacts.record_part(url, Part(f"{shard:05d}", (file,), 3, 3), 0.0, 0.0)
    artifacts.commit(url, Spec("dataset", "test"))
    return store


def scorer(store: Path, **changes: Any) -> ClipScorer:
    fields: dict[str, Any] = {
        "model": "runs/filter/0123",
        "store": str(store),
        "references": 3,
        "reference_url": str(store / "trusted/v"),
        "reference_digest": "abc",
    }
    return ClipScorer(**(fields | changes))


def batch() -> Batch:
    rows = pa.table({"status": ["ok", "ok", "rejected", "ok"], "caption": CAPTIONS})
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), np.uint8)
    return Batch(rows, [noise[0], None, None, noise[1]], [None, "truncated", None, None])


@pytest.fixture(scope="module")
def scores(store: Path) -> Scores:
    return scorer(store).score(batch())


def test_vectors_stand_at_their_rows(scores: Scores) -> None:
    for name, present in (("image", [1, 0, 0, 1]), ("text", [1, 1, 0, 1])):
        vectors = scores.vectors[name]
        assert vectors.shape == (4, 16)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(present, abs=2e-3)


def test_columns_follow_from_the_vectors(scores: Scores, store: Path) -> None:
    image, text = scores.vectors["image"], scores.vectors["text"]
    encoder = ClipEncoder.load(str(store / "runs/filter/0123"))
    references = encoder.encode_texts(reference_captions(str(store / "trusted/v"), 3))
    others = image[[0, 3]] @ references.astype(np.float32).T
    similarity = (image * text).sum(axis=1)[[0, 3]]
    scale = encoder.logit_scale
    expected = scale * similarity - np.log(np.exp(scale * others).mean(axis=1))
    table = scores.columns.to_pydict()
    assert [table[name][1] for name in table] == [None] * 3
    assert [table[name][2] for name in table] == [None] * 3
    pick = [0, 3]
    assert [table["similarity"][i] for i in pick] == pytest.approx(similarity.tolist(), abs=1e-5)
    assert [table["margin"][i] for i in pick] == pytest.approx(expected.tolist(), abs=1e-4)
    assert [table["best_reference"][i] for i in pick] == pytest.approx(others.max(axis=1).tolist())


def test_margins_do_not_overflow_and_are_zero_at_the_mean() -> None:
    others = np.array([[0.9, 0.9], [0.2, -0.2]], np.float32)
    similarity = np.array([0.9, 0.2], np.float32)
    found = margins(similarity, others, 100.0)
    assert found == pytest.approx([0, np.log(2)], abs=1e-4)
    assert np.isfinite(margins(similarity, others, 1e6)).all()


def test_references_are_distinct_kept_captions_whatever_their_shards(store: Path) -> None:
    url = str(store / "trusted/v")
    assert sorted(reference_captions(url, 100)) == ["one", "three", "two", "zero"]
    assert reference_captions(url, 2) == reference_captions(url, 100)[:2]
    with pytest.raises(SluiceError, match="no dataset version at"):
        reference_captions(str(store / "trusted/w"), 2)


def test_without_references_there_is_no_margin(store: Path) -> None:
    found = scorer(store, reference_url=None, reference_digest=None).score(batch())
    assert found.columns["margin"].null_count == 4
    assert found.columns["best_reference"].null_count == 4
    assert found.columns["similarity"].null_count == 2


def test_a_batch_without_images(store: Path) -> None:
    rows = pa.table({"status": ["rejected"], "caption": pa.array([None], pa.string())})
    found = scorer(store).score(Batch(rows, [None], [None]))
    assert found.columns.num_rows == 1
    assert not found.vectors["image"].any()


def test_the_digest_names_the_weights_and_not_their_place(store: Path, tmp_path: Path) -> None:
    def digest(**changes: Any) -> str:
        return score_draft("pool/x", "d" * 16, scorer(store, **changes)).spec.digest

    moved = scorer(Path("/nowhere"), reference_url="/nowhere/trusted/v")
    assert score_draft("pool/x", "d" * 16, moved).spec.digest == digest()
    first, same = write_model(tmp_path / "a/m"), write_model(tmp_path / "b/m")
    other = write_model(tmp_path / "c/m", seed=1)
    assert digest(model=str(first)) == digest(model=str(same)) != digest(model=str(other))
    differing = {
        digest(),
        digest(references=4),
        digest(reference_digest="abd"),
        digest(model="ViT-B-32", pretrained="openai"),
        digest(model="ViT-B-32", pretrained="laion2b_s34b_b79k"),
        digest(precision="bfloat16"),
    }
    assert len(differing) == 6


@pytest.mark.parametrize(
    ("device", "there", "native", "expected"),
    [
        (None, True, True, "float32"),
        ("nvidiactl", True, True, "float32"),
        ("nvidia0", True, True, "bfloat16"),
        ("kfd", True, True, "bfloat16"),
        ("nvidia0", True, False, "float32"),
        ("nvidia0", False, True, "float32"),
    ],
)
def test_the_precision_is_that_of_the_gpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str | None,
    there: bool,
    native: bool,
    expected: str,
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    if device is not None:
        (tmp_path / device).touch()
    assert best_precision(str(tmp_path)) == expected


def test_what_is_made_ready_ahead_gives_the_same_bytes(store: Path) -> None:
    clip, plain = scorer(store), batch()
    fit = clip.ready().fit
    ready = [None if image is None else fit(image) for image in plain.images]
    assert {image.shape for image in ready if image is not None} == {(32, 32, 3)}
    found, expected = clip.score(replace(plain, images=ready)), clip.score(plain)
    assert found.columns == expected.columns
    assert all(np.array_equal(found.vectors[k], expected.vectors[k]) for k in expected.vectors)
