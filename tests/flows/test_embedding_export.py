"""Embeddings leave in the layouts of clip-retrieval and DataComp, row for row."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.embedding_export import export_embeddings, model_tag
from flows.export import export_vectors
from flows.main import Options
from indexes.embeddings import vectors_of
from infra.dataset import open_dataset
from infra.errors import SluiceError

READ = """
import json, sys
from embedding_reader import EmbeddingReader
folder = sys.argv[1]
reader = EmbeddingReader(
    embeddings_folder=folder + "/img_emb", metadata_folder=folder + "/metadata",
    meta_columns=["image_path"], file_format="parquet_npy")
found = [list(map(str, meta["image_path"])) for _, meta in reader(batch_size=7)]
print(json.dumps([int(reader.count), int(reader.dimension), sum(found, [])]))
"""


def samples(store: Path, name: str) -> tuple[list[dict], np.ndarray]:
    """The rows that are samples and could be decoded, in order, and their image vectors."""
    dataset = open_dataset(str(store), name)
    curated = open_dataset(str(store), "curated").artifact
    image = vectors_of(dataset, f"{curated.settings['scores']['clip']}/image")
    rows = [row for shard in dataset.shards for row in dataset.rows(shard).to_pylist()]
    vectors = np.concatenate([image.shard(shard) for shard in dataset.shards])
    there = [row["status"] == "ok" and v.any() for row, v in zip(rows, vectors, strict=True)]
    return [row for row, ok in zip(rows, there, strict=True) if ok], vectors[there]


def test_clip_retrieval_finds_its_partitions(tmp_path: Path, curated_store: Path) -> None:
    said = export_vectors(
        Options(None, (), str(curated_store)), "curated", str(tmp_path), "clip-retrieval", "clip"
    )
    rows, vectors = samples(curated_store, "curated")
    assert said == f"{len(rows)} embeddings: {tmp_path}"
    parts = sorted((tmp_path / "img_emb").iterdir())
    assert [part.name for part in parts] == [f"img_emb_{n}.npy" for n in range(len(parts))]
    stored = np.concatenate([np.load(part) for part in parts])
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, vectors)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "metadata").iterdir())]
    metadata = pa.concat_tables(tables).to_pylist()
    for name in ("uid", "caption", "url", "sha256"):
        assert [row[name] for row in metadata] == [row[name] for row in rows]
    texts = np.concatenate([np.load(p) for p in sorted((tmp_path / "text_emb").iterdir())])
    cosine = (stored.astype(np.float32) * texts.astype(np.float32)).sum(axis=1)
    np.testing.assert_allclose([row["similarity"] for row in metadata], cosine, atol=1e-5)
    if python := os.environ.get("SLUICE_CLIP_RETRIEVAL_PYTHON"):
        command = [python, "-c", READ, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found = json.loads(done.stdout.splitlines()[-1])
        assert found == [len(rows), vectors.shape[1], [row["image_path"] for row in metadata]]


def test_datacomps_pairs_are_row_aligned(tmp_path: Path, curated_store: Path) -> None:
    dataset = open_dataset(str(curated_store), "pool")
    count = export_embeddings(dataset, str(tmp_path), "datacomp", tag="l14")
    rows, vectors = samples(curated_store, "pool")
    known = {row["uid"]: vector for row, vector in zip(rows, vectors, strict=True)}
    seen = 0
    for path in sorted(tmp_path.glob("*.parquet")):
        table, arrays = pq.read_table(path), np.load(path.with_suffix(".npz"))
        assert len(path.stem) == 32 and set(arrays) == {"l14_img", "l14_txt"}
        assert "clip_l14_similarity_score" in table.column_names
        for uid, vector in zip(table["uid"].to_pylist(), arrays["l14_img"], strict=True):
            np.testing.assert_array_equal(vector, known[uid])
            seen += 1
    assert seen == count == len(rows)


def test_two_exports_do_not_mix_in_one_folder(tmp_path: Path, curated_store: Path) -> None:
    """A reader takes all partitions that are there: those of another version would be doubled."""
    pool, curated = (open_dataset(str(curated_store), name) for name in ("pool", "curated"))
    target = str(tmp_path / "out")
    first = export_embeddings(pool, target, "clip-retrieval")
    assert not (tmp_path / "out" / "_tmp").exists()
    assert export_embeddings(pool, target, "clip-retrieval") == first  # again, over a killed one
    with pytest.raises(SluiceError, match="holds something else"):
        export_embeddings(curated, target, "clip-retrieval")


def test_a_version_without_scores_is_told(tmp_path: Path, curated_store: Path) -> None:
    with pytest.raises(SluiceError, match="has no scores 'siglip'"):
        export_embeddings(
            open_dataset(str(curated_store), "pool"), str(tmp_path), "datacomp", "siglip"
        )


def test_models_have_datacomps_short_names() -> None:
    names = {"ViT-B-32": "b32", "ViT-L-14-quickgelu": "l14", "hf-hub:x/SigLIP.2": "siglip_2"}
    assert {name: model_tag(name) for name in names} == names
