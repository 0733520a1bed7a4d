"""A version's embeddings in the layouts of other tools; rows without one are left out.

clip-retrieval 2.45, a partition for each shard, to be indexed and served by it:

    img_emb/img_emb_00.npy          float16 [n, dim], unit
    text_emb/text_emb_00.npy
    metadata/metadata_00.parquet    image_path (the key), caption, url, uid, width, height, ...

DataComp, a pair of files for each shard, row-aligned, as its metadata comes:

    <32 hex characters>.parquet     uid, url, text, original_width, original_height,
                                    clip_TAG_similarity_score, sha256
    <32 hex characters>.npz         TAG_img, TAG_txt; float16; TAG is b32, l14, ...
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.claim import claim, tidy
from indexes.embeddings import Embedding, vectors_of
from infra import artifacts, filesystem
from infra.artifacts import Spec
from infra.dataset import Dataset, write_table
from infra.errors import SluiceError
from infra.filesystem import join, write_bytes

CODE = 1
Vectors = npt.NDArray[np.float16]
ROWS = ["uid", "key", "url", "caption", "sha256", "status"]
SIZES = ["width", "height", "original_width", "original_height"]


@dataclass(frozen=True)
class Embedded:
    """What a shard gives: rows that have both vectors, with their similarity, in row order."""

    rows: pa.Table
    image: Vectors
    text: Vectors
    similarity: npt.NDArray[np.float32]


def export_embeddings(
    dataset: Dataset, target: str, layout: str, scorer: str = "clip", tag: str | None = None
) -> int:
    """Write the embeddings of the samples of a version to the folder `target`; how many.

    layout: "clip-retrieval" or "datacomp". scorer: its name, or a score folder. tag: DataComp's
    name for the model; without it made of the model's (ViT-B-32 -> b32). Raises SluiceError where
    the version has no such scores, or something else lies at `target`.
    """
    folder = _folder(dataset, scorer)
    image, text = (vectors_of(dataset, f"{folder}/{vector}") for vector in ("image", "text"))
    shards = sorted(dataset.shards)
    digits = len(str(max(len(shards), 1)))  # int(log10(n)) + 1
    name = tag or model_tag(str(image.scores.settings.get("model", "")))
    settings = {"layout": layout, "scorer": folder, "tag": name}
    parents = (dataset.artifact.digest, image.scores.digest)
    claim(target, Spec("export", "curation.embedding_export", settings, parents, CODE))
    count = 0
    for number, shard in enumerate(shards):
        found = embedded(dataset, shard, image, text)
        if layout == "datacomp":
            stem = hashlib.sha256(f"{dataset.artifact.digest} {shard}".encode()).hexdigest()[:32]
            _write_datacomp(target, stem, found, name)
        else:
            _write_partition(target, f"{number:0{digits}d}", found)
        count += found.rows.num_rows
    tidy(target)
    if not count:
        raise SluiceError(
            f"no sample of {dataset.url} has both vectors of {image.name}",
            "see in the report why samples were rejected",
        )
    return count


def _folder(dataset: Dataset, scorer: str) -> str:
    """A scorer's name as it is, or its folder, where the version is no curated one and has one."""
    manifests = filesystem.list_files(
        join(dataset.url, "scores", f"{scorer}-*", artifacts.MANIFEST)
    )
    return manifests[0].split("/")[-2] if len(manifests) == 1 else scorer


def model_tag(model: str) -> str:
    """ViT-B-32 -> b32, ViT-L-14-quickgelu -> l14; other names in lower case, letters and digits."""
    found = re.match(r"ViT-([A-Za-z]+)-(\d+)", model)
    if found:
        return f"{found[1]}{found[2]}".lower()
    return re.sub(r"[^a-z0-9]+", "_", model.rpartition("/")[2].lower()).strip("_") or "clip"


def embedded(dataset: Dataset, shard: int, image: Embedding, text: Embedding) -> Embedded:
    """The samples of a shard that have both vectors."""
    rows = dataset.rows(shard, [*ROWS, *SIZES])
    vectors = image.shard(shard), text.shard(shard)
    ok = pc.equal(rows["status"], "ok").to_numpy()
    present = ok & vectors[0].any(axis=1) & vectors[1].any(axis=1)
    left, right = (each[present] for each in vectors)
    # Of the vectors as they are written, so that whoever reads them finds the same.
    similarity = np.einsum("nd,nd->n", left.astype(np.float32), right.astype(np.float32))
    return Embedded(rows.filter(pa.array(present)), left, right, similarity)


def _write_partition(target: str, number: str, found: Embedded) -> None:
    _write_array(target, f"img_emb/img_emb_{number}.npy", found.image)
    _write_array(target, f"text_emb/text_emb_{number}.npy", found.text)
    columns = {"image_path": found.rows["key"], "caption": found.rows["caption"]}
    more = ("url", "uid", "sha256", "width", "height")
    columns |= {name: found.rows[name] for name in more}
    table = pa.table({**columns, "similarity": pa.array(found.similarity)})
    write_table(target, f"metadata/metadata_{number}.parquet", table)


def _write_datacomp(target: str, stem: str, found: Embedded, tag: str) -> None:
    rows = found.rows
    columns: dict[str, Any] = {"uid": rows["uid"], "url": rows["url"], "text": rows["caption"]}
    for side in ("width", "height"):
        columns[f"original_{side}"] = pc.coalesce(rows[f"original_{side}"], rows[side])
    columns[f"clip_{tag}_similarity_score"] = pa.array(found.similarity)
    columns["sha256"] = rows["sha256"]
    write_table(target, f"{stem}.parquet", pa.table(columns))
    arrays = {f"{tag}_img": found.image, f"{tag}_txt": found.text}
    _write(target, f"{stem}.npz", lambda file: np.savez(file, allow_pickle=False, **arrays))


def _write_array(target: str, path: str, array: Vectors) -> None:
    _write(target, path, lambda file: np.save(file, array, allow_pickle=False))


def _write(target: str, path: str, save: Callable[[io.BytesIO], None]) -> None:
    buffer = io.BytesIO()
    save(buffer)
    write_bytes(target, path, buffer.getvalue())
