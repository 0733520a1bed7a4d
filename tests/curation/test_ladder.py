"""The whole ladder on small real datasets: the same pictures stay, however they are stored."""

import io
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from curation.dedup import ALL, EDGES_FILE, EdgesWork, edge_nodes, edges_draft, find_duplicates
from curation.perceptual import dhash, phash, pixel_sha256
from curation.rules_settings import DUPLICATES, DedupSettings, NearSettings
from curation.scores.pixels import descriptor, dimension
from curation.verdicts import VerdictsWork, verdicts_draft
from infra.dataset import read_table

DEDUP = DedupSettings(near=(NearSettings(threshold=0.95, floor=0.7),))
SCENES, SIDE = 6, 64


def encoded(image: Image.Image, kind: str, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": quality} if kind == "JPEG" else {}))
    return buffer.getvalue()


def pictures() -> list[bytes]:
    """Scenes, each with copies: of its bytes, its pixels, re-encoded, resized; and blank ones."""
    found: list[bytes] = []
    for scene in range(SCENES):
        rng = np.random.default_rng(scene)
        coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
        image = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        first = encoded(image, "JPEG")
        shown = Image.open(io.BytesIO(first)).convert("RGB")
        found += [first, first, encoded(shown, "PNG"), encoded(shown, "JPEG", 35 + 5 * scene)]
        found.append(encoded(shown.resize((SIDE // 2, SIDE // 2)), "JPEG", 80))
    flat = Image.new("RGB", (SIDE, SIDE), (200, 200, 200))
    return [*found, encoded(flat, "PNG"), encoded(flat, "JPEG"), b"no picture", b"no picture"]


PICTURES = pictures()


@cache
def measured(number: int) -> tuple[tuple[Any, ...], np.ndarray]:
    """The three hashes of a picture, and its descriptor."""
    try:
        image = Image.open(io.BytesIO(PICTURES[number])).convert("RGB")
    except OSError:
        return (None, None, None), np.zeros(dimension(), np.float32)
    array, grey = np.asarray(image), [image.convert("L")]
    return (pixel_sha256(array), int(phash(grey)[0]), int(dhash(grey)[0])), descriptor(array)


def stored(maker: Any, order: list[int], size: int) -> Any:
    """The pictures as a dataset in that order, `size` to a shard, with what is measured on them."""
    maker = replace(maker, size=size)
    samples = [{"image": PICTURES[number], "uid": f"{number * 7 % 37:032x}"} for number in order]
    made = maker.dataset("pool", samples)
    hashes, vectors = zip(*(measured(number) for number in order), strict=True)
    types = (pa.string(), pa.uint64(), pa.uint64())
    names = ("pixel_sha256", "phash", "dhash")
    columns = {
        name: pa.array(values, kind)
        for name, kind, values in zip(names, types, zip(*hashes, strict=True), strict=True)
    }
    maker.score(made, "hash", columns)
    maker.score(made, "descriptor", {"x": [0] * len(order)}, {"pixels": np.stack(vectors)})
    return made


def edges_of(maker: Any, made: Any, dedup: DedupSettings) -> Any:
    draft = edges_draft(made.url, made.digest, made.folders, dedup)
    return maker.run(draft, [ALL], EdgesWork(draft.url, made.url, made.folders, dedup))


def judged(maker: Any, made: Any, dedup: DedupSettings = DEDUP) -> pa.Table:
    edges = edges_of(maker, made, dedup)
    digest = edges.digest
    draft = verdicts_draft(made.url, made.digest, made.folders, digest, (), dedup)
    work = VerdictsWork(draft.url, made.url, made.folders, edges.url, (), dedup)
    artifact = maker.run(draft, [ALL], work)
    files = [file.path for part in artifact.parts for file in part.files]
    return pa.concat_tables(read_table(artifact.path(path)) for path in sorted(files))


def test_every_rung_finds_its_copies_and_names_a_kept_twin(maker: Any) -> None:
    rows = judged(maker, stored(maker, list(range(len(PICTURES))), 8)).to_pylist()
    by_uid = {row["uid"]: row for row in rows}
    kept = [row for row in rows if row["kept"]]
    assert len(kept) == SCENES + 2  # the scenes, a blank, and what is no picture
    assert {row["reason"] for row in rows if not row["kept"]} == {
        "exact_duplicate", "pixel_duplicate", "perceptual_duplicate",
    }  # fmt: skip
    for row in rows:
        if row["kept"]:
            assert row["twin_uid"] is None
            continue
        assert by_uid[row["twin_uid"]]["kept"]
        assert row["score"] == pytest.approx(row["twin_similarity"])
        assert row["score"] >= row["threshold"]
        assert row["threshold"] == DEDUP.thresholds[DUPLICATES.index(row["reason"])]


@pytest.mark.parametrize(("seed", "size"), [(0, 8), (1, 16), (2, 64)])
def test_the_same_uids_stay_wherever_the_rows_are_stored(maker: Any, seed: int, size: int) -> None:
    """Shards in another order, rows in another order, other shards: one answer."""
    order = np.random.default_rng(seed).permutation(len(PICTURES)).tolist()
    straight = judged(maker, stored(maker, list(range(len(PICTURES))), 8))
    mixed = judged(maker, stored(maker, order, size))
    columns = ["uid", "kept", "reason", "twin_uid", "twin_similarity"]
    assert straight.select(columns).sort_by("uid") == mixed.select(columns).sort_by("uid")


@pytest.mark.parametrize(("radius", "threshold"), [(0, 0.95), (4, 0.8), (8, 0.99), (12, 0.7)])
def test_moved_thresholds_choose_as_a_fresh_search_does(
    maker: Any, radius: int, threshold: float
) -> None:
    made = stored(maker, list(range(len(PICTURES))), 8)
    near = DEDUP.near[0].model_copy(update={"threshold": threshold})
    moved = DEDUP.model_copy(update={"radius": radius, "near": (near,)})
    there = near.model_copy(update={"floor": threshold})
    fresh = moved.model_copy(update={"radius_floor": radius, "near": (there,)})
    kept: list[set[int]] = []
    for searched in (DEDUP, fresh):
        edges = read_table(edges_of(maker, made, searched).path(EDGES_FILE))
        nodes = edge_nodes(edges)
        alike = np.ones(len(nodes))
        found = find_duplicates(edges, nodes, alike.astype(bool), alike, moved)
        kept.append(set(found.ids.tolist()))
    assert kept[0] == kept[1]
    assert kept[0]
