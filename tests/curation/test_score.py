"""The scoring framework: alignment, batches, missing images, what a digest depends on."""

import io
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from curation import score
from curation.score import Batch, Ready, Scores, ScoreWork, filled, score_draft, spread
from curation.scores.registry import REGISTRY, pixel_scorers
from infra.artifacts import Part, Spec, commit, record_part, verify
from infra.dataset import ROWS, part_name, read_table, sample_key, write_shard
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.stage import Item, run_stage


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def make(store: Path, images: list[list[bytes | None]]) -> str:
    """A dataset version with these images by shard and row; None is a rejected row."""
    spec = Spec("dataset", "test", {"shards": [len(shard) for shard in images]})
    url = f"{store}/pool/{spec.digest}"
    for shard, contents in enumerate(images):
        rows = [
            {
                "uid": f"{shard:016x}{row:016x}",
                "shard": shard,
                "row": row,
                "status": "rejected" if image is None else "ok",
                "reason": "missing_image" if image is None else None,
                "key": sample_key(shard, row),
                "caption": f"caption {row}",
                "format": "png",
            }
            for row, image in enumerate(contents)
        ]
        files = write_shard(url, shard, pa.Table.from_pylist(rows, ROWS), contents)
        lost = contents.count(None)
        dropped = {"missing_image": lost} if lost else {}
        count = len(rows)
        part = Part(part_name(shard), tuple(files), count, count - lost, dropped)
        record_part(url, part, 0.0, 0.0)
    commit(url, spec)
    return url


@dataclass(frozen=True)
class Mean:
    """Mean grey as a column and a vector; remembers the batches it saw."""

    offset: int = 0
    name = "mean"
    code = 1
    reads_images = True
    reads_vectors = ()
    vectors = ("grey",)
    columns = pa.schema({"mean": pa.float32(), "error": pa.string(), "batch": pa.int32()})

    def settings(self) -> Mapping[str, Any]:
        return {"offset": self.offset}

    def score(self, batch: Batch) -> Scores:
        positions, images = batch.decoded()
        means = np.array([image.mean() + self.offset for image in images], np.float32)
        columns = {
            "mean": filled(len(batch), positions, means, pa.float32()),
            "error": pa.array(batch.errors, pa.string()),
            "batch": pa.array([len(batch)] * len(batch), pa.int32()),
        }
        unit = np.tile(np.array([0.6, 0.8], np.float32), (len(images), 1))
        return Scores(pa.table(columns), {"grey": spread(len(batch), positions, unit)})


@dataclass(frozen=True)
class Words:
    """Reads no images, and says whether it was given any."""

    name = "words"
    code = 1
    reads_images = False
    reads_vectors = ()
    vectors = ()
    columns = pa.schema({"decoded": pa.bool_()})

    def settings(self) -> Mapping[str, Any]:
        return {}

    def score(self, batch: Batch) -> Scores:
        return Scores(pa.table({"decoded": [image is not None for image in batch.images]}))


def run(url: str, *scorers: Any, shards: int = 1) -> dict[str, str]:
    """Score and return the URL of each score folder."""
    digest = url.rpartition("/")[2]
    drafts = {scorer.name: score_draft(url, digest, scorer) for scorer in scorers}
    work = ScoreWork(url, {scorer.name: scorer for scorer in scorers})
    items = [Item(part_name(shard), shard) for shard in range(shards)]
    made = run_stage("score", drafts, items, work, InlineRunner(), SilentDisplay())
    assert all(verify(artifact) == [] for artifact in made.values())
    return {name: artifact.url for name, artifact in made.items()}


def columns(url: str, shard: int = 0) -> pa.Table:
    return read_table(f"{url}/columns/{part_name(shard)}.parquet")


def test_rows_without_pixels_are_null_and_zero(tmp_path: Path) -> None:
    url = make(tmp_path, [[picture(10), None, picture(20)[:-5], b"no image", picture(30)]])
    folder = run(url, Mean())["mean"]
    table = columns(folder)
    assert table["mean"].to_pylist() == [10, None, None, None, 30]
    assert table["error"].to_pylist() == [None, None, "truncated", "decode_failed", None]
    vectors = np.load(f"{folder}/grey/00000.npy")
    assert vectors.dtype == np.float16
    assert vectors.any(axis=1).tolist() == [True, False, False, False, True]
    assert np.allclose(np.linalg.norm(vectors[[0, 4]].astype(float), axis=1), 1, atol=1e-3)


def test_columns_keep_the_units_that_their_scorer_declares(tmp_path: Path) -> None:
    folder = run(make(tmp_path, [[picture(10)]]), REGISTRY["image"]())["image"]
    assert columns(folder).schema.equals(REGISTRY["image"]().columns, check_metadata=True)


def test_batches_keep_their_order_and_bound_what_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [None if row % 4 == 1 else picture(row) for row in range(8)]
    for name, limit, sizes in (
        ("BATCH", 3, [4] * 8),
        ("BATCH", 5, [7] * 7 + [1]),
        ("ROWS", 3, [3] * 6 + [2] * 2),
        ("BYTES", 2 * 4 * 4 * 3, [3] * 3 + [2] * 2 + [3] * 3),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(score, name, limit)
            url = make(tmp_path / f"{name}{limit}", [images])
            table = columns(run(url, Mean())["mean"])
        assert table["mean"].to_pylist() == [0, None, 2, 3, 4, None, 6, 7]
        assert table["batch"].to_pylist() == sizes


@dataclass(frozen=True)
class Network(Mean):
    """A scorer whose images are made ready ahead of it; `score` waits for `reached`."""

    fit: Callable[[Any], Any] = lambda image: image[:2]
    on_gpu: bool = False
    reached: threading.Event | None = None

    def ready(self) -> Ready:
        return Ready(self.fit, self.on_gpu)

    def score(self, batch: Batch) -> Scores:
        assert self.reached is None or self.reached.wait(30)
        assert {len(image) for image in batch.images if image is not None} <= {2}
        return super().score(batch)


@pytest.mark.parametrize(("own", "on_gpu"), [(1, True), (2, False), (4, False)])
def test_the_next_batches_are_decoded_while_a_network_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: int, on_gpu: bool
) -> None:
    images = [None if row % 7 == 1 else picture(row) for row in range(40)]
    images[20] = picture(20)[:-5]
    means = columns(run(make(tmp_path / "a", [images]), Network())["mean"])["mean"]
    monkeypatch.setattr(score, "own_processors", lambda: own)
    for name, limit in (("BATCH", 4), ("PIECE", 3), ("DECODED_AHEAD", 3), ("READ_AHEAD", 2)):
        monkeypatch.setattr(score, name, limit)
    reached, fitted, most = threading.Event(), list[int](), 0

    def fit(image: Any) -> Any:
        fitted.append(int(image.mean()))
        if len(fitted) > 4:
            reached.set()
        return image[:2]

    @dataclass(frozen=True)
    class Watching(Network):
        def score(self, batch: Batch) -> Scores:
            nonlocal most
            scores = super().score(batch)
            last = max(int(image.mean()) for image in batch.images if image is not None)
            most = max(most, max(fitted) - last)
            return scores

    url = make(tmp_path / "b", [images])
    table = columns(run(url, Watching(fit=fit, on_gpu=on_gpu, reached=reached))["mean"])
    assert table["mean"].to_pylist() == means.to_pylist()
    assert table["error"].to_pylist()[20] == "truncated"
    assert most <= 3 * (1 + 3 + 1) + 3  # rows: the pieces ahead, one in hand, and the batch's rest


def test_what_a_thread_raises_is_raised_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "PIECE", 1)

    def fit(image: Any) -> Any:
        raise SluiceError("no memory", "buy some")

    url = make(tmp_path, [[picture(row) for row in range(9)]])
    with pytest.raises(SluiceError, match="no memory"):
        run(url, Network(fit=fit, on_gpu=True))
    with (Path(url) / "shards/00000.tar").open("r+b") as tar:
        tar.truncate(5000)
    with pytest.raises(SluiceError, match=r"00000\.tar is damaged or has changed"):
        run(url, Network(on_gpu=True))
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_a_shard_of_rejected_rows(tmp_path: Path) -> None:
    url = make(tmp_path, [[None, None]])
    for scorer in (Mean(), *pixel_scorers()):
        table = columns(run(url, scorer)[scorer.name])
        assert table.num_rows == 2


def test_an_image_is_decoded_once_for_all_scorers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    plain = score.decode.decode_upright

    def counting(data: bytes, limit: int) -> Any:
        nonlocal count
        count += 1
        return plain(data, limit)

    monkeypatch.setattr(score.decode, "decode_upright", counting)
    run(make(tmp_path, [[picture(1), picture(2)]]), *pixel_scorers())
    assert count == 2


def test_scorers_without_pixels_touch_none(tmp_path: Path) -> None:
    url = make(tmp_path, [[picture(1), None]])
    (Path(url) / "shards/00000.tar").unlink()
    assert columns(run(url, Words())["words"])["decoded"].to_pylist() == [False, False]


def test_a_finished_score_is_not_done_again(tmp_path: Path) -> None:
    url = make(tmp_path, [[picture(1)]])
    run(url, Mean())
    (Path(url) / "shards/00000.tar").unlink()
    run(url, Mean(), Words())


def test_the_digest_follows_settings_code_data_and_pixel_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def digest(scorer: Any = Mean(), data: str = "d" * 16, limit: int = 100) -> str:
        return score_draft("store/pool/x", data, scorer, limit).spec.digest

    before = {digest(), digest(Mean(1)), digest(data="e" * 16), digest(limit=99)}
    assert len(before) == 4
    assert digest() == digest()
    assert digest(Words()) == digest(Words(), limit=99)
    monkeypatch.setattr(Mean, "code", 2)
    assert digest() not in before


def test_a_tar_that_does_not_fit_its_rows_is_named(tmp_path: Path) -> None:
    url = make(tmp_path, [[picture(1), picture(2)], [picture(3), None]])
    tar = Path(url) / "shards/00000.tar"
    tar.write_bytes((Path(url) / "shards/00001.tar").read_bytes())
    with pytest.raises(SluiceError, match=r"00000\.tar is damaged or has changed"):
        run(url, Mean(), shards=2)


def test_a_scorer_must_give_a_row_for_a_row(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Short(Mean):
        def score(self, batch: Batch) -> Scores:
            scores = super().score(batch)
            return replace(scores, columns=scores.columns.slice(1))

    with pytest.raises(SluiceError, match=r"scorer mean gave .* for 2 rows of shard 00000"):
        run(make(tmp_path, [[picture(1), picture(2)]]), Short())


def test_a_scorer_must_give_the_columns_it_declares(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Other(Mean):
        columns = pa.schema({"mean": pa.float64()})

    with pytest.raises(SluiceError, match=r"declares .* the columns \['mean'\]"):
        run(make(tmp_path, [[picture(1), picture(2)]]), Other())


def test_filled_and_spread() -> None:
    assert filled(4, [1, 3], np.array([0.5, np.nan]), pa.float32()).to_pylist() == [
        None,
        0.5,
        None,
        None,
    ]
    assert filled(1, [], [], pa.string()).to_pylist() == [None]
    assert spread(3, [2], np.array([[1, 2]])).tolist() == [[0, 0], [0, 0], [1, 2]]
    assert spread(2, [], np.empty((0, 3))).shape == (2, 3)


def test_every_registered_scorer_carries_its_own_name() -> None:
    assert set(REGISTRY) == {"image", "text", "language", "hash", "descriptor", "clip"}
    for name, scorer in REGISTRY.items():
        assert scorer.name == name  # type: ignore[attr-defined]
    assert [scorer.name for scorer in pixel_scorers(only_matching=True)] == ["hash", "descriptor"]


@dataclass(frozen=True)
class Twice:
    """Reads the vectors of another scorer, and no image."""

    name = "twice"
    code = 1
    reads_images = False
    reads_vectors = ("mean/grey",)
    vectors = ()
    columns = pa.schema({"first": pa.float32()})

    def settings(self) -> Mapping[str, Any]:
        return {}

    def score(self, batch: Batch) -> Scores:
        values = batch.vectors["mean/grey"][:, 0].astype(np.float32)
        return Scores(pa.table({"first": pa.array(values, pa.float32())}))


def test_a_scorer_reads_what_another_one_stored(tmp_path: Path) -> None:
    url = make(tmp_path, [[picture(10), None, picture(20)]])
    mean = run(url, Mean())["mean"]
    folders = {"mean": mean.rpartition("/")[2]}
    draft = score_draft(url, url.rpartition("/")[2], Twice(), folders=folders)
    ScoreWork(url, {"twice": Twice()}, folders=folders)(0, ["twice"])
    column = read_table(f"{draft.url}/columns/00000.parquet")["first"].to_numpy()
    np.testing.assert_allclose(column, [0.6, 0, 0.6], atol=1e-3)
    assert folders["mean"].rpartition("-")[2] in draft.spec.parents


def test_vectors_that_are_no_embeddings_are_refused(tmp_path: Path) -> None:
    url = make(tmp_path, [[picture(10)]])
    mean = run(url, Mean())["mean"]
    work = ScoreWork(url, {"twice": Twice()}, folders={"mean": mean.rpartition("/")[2]})
    for wrong in (3.0, float("nan")):
        np.save(f"{mean}/grey/00000.npy", np.full((1, 2), wrong, np.float16))
        with pytest.raises(SluiceError, match=r"00000\.npy: row 0 has norm"):
            work(0, ["twice"])
    with pytest.raises(SluiceError, match="asks for the scorer 'mean'"):
        ScoreWork(url, {"twice": Twice()})(0, ["twice"])


def encoded(row: int, kind: str) -> bytes:
    """A picture of its own size and grain for each row, in one of three formats."""
    rng = np.random.default_rng(row)
    coarse = rng.integers(0, 256, (2 + row % 5, 3 + row % 7, 3), np.uint8)
    image = Image.fromarray(coarse).resize((11 + 9 * row, 70 - 3 * row), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_pixel_scores_do_not_depend_on_batches_or_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [encoded(row, ("JPEG", "PNG", "WEBP")[row % 3]) for row in range(12)]
    mixed: list[bytes | None] = [images[0], None, *images[1:5], images[5][:-9], *images[5:]]
    places = [row for row in range(len(mixed)) if row not in (1, 6)]
    scorers = [scorer for scorer in pixel_scorers() if scorer.reads_images]
    found: list[list[Any]] = []
    for batch, turned in ((256, False), (1, False), (5, True)):
        monkeypatch.setattr(score, "BATCH", batch)
        shard = mixed[::-1] if turned else mixed
        folders = run(make(tmp_path / f"{batch}", [shard]), *scorers)
        tables = [columns(folders[scorer.name]).to_pylist() for scorer in scorers]
        vectors = np.load(f"{folders['descriptor']}/pixels/00000.npy").tolist()
        each = [[*rows] for rows in zip(*tables, vectors, strict=True)]
        found.append([each[:: -1 if turned else 1][row] for row in places])
    assert found[0] == found[1] == found[2]
    assert [row[0]["jpeg_quality"] for row in found[0][:3]] == [75, None, None]
