"""The command `head`, and a trained head in a recipe, from labels to a rule."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curation.heads.file import load_head
from flows.cli import app
from flows.main import Options, prepare
from flows.pipeline import CHOSEN
from infra.dataset import open_dataset
from infra.errors import SluiceError
from tests.curation.heads.made import TOLD, module
from tests.flows.conftest import SMALL, run_small

CARD = ("--embedding", TOLD["embedding"], "--units", TOLD["units"], "--polarity", TOLD["polarity"])


def call(*tokens: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        app(list(tokens))
    return int(stopped.value.code or 0)


def test_a_checkpoint_is_converted_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(module("v2").state_dict(), tmp_path / "v2.pth")
    target = str(tmp_path / "head.safetensors")
    assert call("head", "convert", str(tmp_path / "v2.pth"), "--to", target, *CARD) == 0
    assert call("head", "show", target) == 0
    first, second = capsys.readouterr().out.split("embedding ")[1:]
    assert first == second and "LAION aesthetic V2" in first
    assert call("head", "convert", str(tmp_path / "v2.pth"), "--to", "head.pth", *CARD) == 1
    assert call("head", "show", str(tmp_path / "v2.pth")) == 1
    assert "PyTorch checkpoint" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head.safetensors", "v2.pth"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, curated_store: Path) -> Path:
    """A head for what the demo's embeddings say in their first number; its report is beside."""
    folder = tmp_path_factory.mktemp("head")
    pool = open_dataset(str(curated_store), "pool")
    [image] = curated_store.glob("pool/*/scores/clip-*/image")
    rows = pa.concat_tables([pool.rows(shard) for shard in pool.shards])
    vectors = np.concatenate([np.load(file) for file in sorted(image.glob("*.npy"))])
    first = vectors[:, 0].astype(np.float64)
    table = pa.table({"uid": rows["uid"], "good": first > np.median(first[first != 0])})
    pq.write_table(table, folder / "labels.parquet")
    options = {"version": "pool", "labels": folder / "labels.parquet", "label": "good"}
    options |= {"polarity": "higher is better", "store": curated_store}
    tokens = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    for name in ("good", "again"):
        assert call("head", "train", *tokens, "--output", f"{folder}/{name}.safetensors") == 0
    return folder / "good.safetensors"


def test_a_head_is_trained_on_a_version(trained: Path) -> None:
    assert trained.read_bytes() == trained.with_stem("again").read_bytes()
    page = trained.with_suffix(".html").read_text()
    assert "<svg" in page and "Reliability" in page
    report = json.loads(trained.with_suffix(".json").read_text())
    assert report["card"]["embedding"].startswith("runs/filter/")
    assert report["held_out"]["auroc"] > 0.9
    counts = report["labels"]
    ends = ("no label", "repeated", "contradicted", "unknown uid", "no vector", "used")
    assert counts["labels"] == sum(counts[name] for name in ends)
    assert counts["no vector"] > 0


@pytest.mark.slow
def test_a_recipe_scores_with_a_trained_head(
    tmp_path: Path, curated_store: Path, trained: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(curated_store, store)
    chosen = f"curate.scores.good={{kind: head, file: {trained}}}"
    rule = ("curate.rules.too_small.score=good.score", "curate.rules.too_small.min=0.5")
    result = run_small(store, "curate", overrides=[chosen, *rule])
    ran = [timing.name for timing in result.timings if not timing.from_store]
    assert ran == [CHOSEN, "verdicts", "curated version"]
    [columns] = store.glob("pool/*/scores/good-*/columns/00000.parquet")
    [vectors] = store.glob("pool/*/scores/clip-*/image/00000.npy")
    stored = np.load(vectors)
    expected = np.where(stored.any(axis=1), load_head(str(trained)).apply(stored), np.nan)
    found = pq.read_table(columns)["score"]
    assert found.to_numpy().astype(np.float32).tobytes() == expected.tobytes()
    assert pq.read_schema(columns).field("score").metadata[b"units"] == b"probability"
    with pytest.raises(SluiceError, match="is of ViT-B-32/openai"):
        other = ("filter.model=ViT-B-32", "filter.pretrained=openai", "filter.train=null")
        prepare(Options(None, (*SMALL, chosen, *other), str(store)))


def test_wrong_labels_are_one_message(
    tmp_path: Path, curated_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text("uid,good\n" + "0" * 32 + ",1\n")
    tokens = ["head", "train", "--version", "pool", "--labels", str(tmp_path / "labels.csv")]
    tokens += ["--polarity", "higher is better", "--output", str(tmp_path / "h.safetensors")]
    tokens += ["--store", str(curated_store)]
    assert call(*tokens, "--label", "good") == 1
    assert "no label meets a vector" in capsys.readouterr().err
    assert call(*tokens, "--label", "bad") == 1
    assert "no column 'bad'" in capsys.readouterr().err
    assert call(*tokens, "--label", "good", "--vectors", "beauty/image") == 1
    assert "no scores of 'beauty'" in capsys.readouterr().err
    assert call(*tokens, "--label", "good", "--held-out", "2") == 1
    assert "held_out" in capsys.readouterr().err
