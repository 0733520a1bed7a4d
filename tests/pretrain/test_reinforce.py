"""A teacher's outputs as columns: what is stored, that it is exact, that work can be cut off."""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from infra import artifacts
from infra.artifacts import Artifact
from infra.dataset import read_samples, shard_and_row, write_table
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner, LocalRunner, Runner
from infra.stage import run_stage
from pretrain import label_teacher, outputs, replay
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD
from pretrain.columns import ColumnsFile
from pretrain.data import Source, Stream
from pretrain.decoded import decode
from pretrain.loop import deterministic
from pretrain.objectives import build
from pretrain.reinforce import ReinforceWork, reinforce_draft, reinforce_items, words
from pretrain.reinforce_settings import ReinforceSettings
from pretrain.reinforce_shard import Asked, Image, column
from pretrain.run import job_of, run_draft, train
from pretrain.settings import TrainSettings
from tests.pretrain.conftest import COLOURS, picture, png, write_version
from tests.pretrain.taught import settings_of

CPU = torch.device("cpu")
NAMES = tuple(COLOURS)
COLOURFUL = {"jitter": 0.4, "grey": 0.3, "blur": 0.5, "solarize": 0.3}


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Thirty pictures in two shards, of which the third cannot be decoded."""
    samples = [
        (png(picture(name, number, "reinforce")), {"concept": name})
        for number in range(10)
        for name in COLOURS
    ]
    samples[2] = (samples[2][0][:40], samples[2][1])
    return write_version(tmp_path_factory.mktemp("reinforce") / "data" / "a", samples)


@pytest.fixture(scope="module")
def teacher(version: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a short run with classes."""
    settings = TrainSettings.model_validate(
        {
            "objective": "supervised", "model": "test_resnet", "image_size": 32, "batch": 10,
            "steps": 3, "threads": 1, "device": "cpu", "options": {"classes": NAMES},
        }
    )  # fmt: skip
    digest = artifacts.load(version).digest  # type: ignore[union-attr]
    store = str(tmp_path_factory.mktemp("runs"))
    draft = run_draft(store, "teacher", settings, {"a": digest})
    return train(draft, [Source(version)], settings, "local", SilentDisplay()).url


def reinforced(
    version: str, settings: ReinforceSettings, runner: Runner | None = None, name: str = "teacher"
) -> Artifact:
    digest = artifacts.load(version).digest  # type: ignore[union-attr]
    draft = reinforce_draft(version, digest, name, settings)
    work = ReinforceWork(draft.url, version, settings)
    items = reinforce_items(version, settings)
    with runner or InlineRunner() as workers:
        made = run_stage(
            "reinforce", {"": draft}, items, work, workers, SilentDisplay(), work.figures
        )
    return made[""]


def test_what_is_stored_is_what_the_teacher_gives(version: str, teacher: str) -> None:
    settings = settings_of(teacher, **COLOURFUL)
    made = reinforced(version, settings)
    extra = made.manifest["extra"]
    assert (extra["classes"], extra["image_size"], extra["canvas"]) == (list(NAMES), 32, 48)
    assert made.totals["dropped"] == {"undecodable": 1} and made.totals["kept"] == 29
    assert "29 images, 87 outputs, 1 rows without" in words(made)
    (network,) = label_teacher.load(settings, CPU)
    stream = Stream(
        [Source(version)], batch=10, canvas=48, shuffle=40, seed=0, cache_mib=1, threads=1,
        columns={"teacher": made.url.rpartition("/")[2]},
    )  # fmt: skip
    batch = next(stream.batches(stream.start()))
    for view in range(3):
        rows = [fields["teacher"] for fields in batch.columns]
        stored = replay.chosen(rows, [view] * 10)
        pixels = torch.from_numpy(batch.images)
        images = replay.render(pixels, stored, 32, network.mean, network.std)
        with torch.no_grad():
            given = network.probabilities(images).numpy()
        best = np.sort(given, 1)[:, ::-1][:, :2]
        error = np.abs(stored["probabilities"].astype(np.float32) - best)
        assert (error <= best / 2048 + 1e-5).all()
        assert (given.argmax(1) == stored["classes"][:, 0]).all()


def test_rows_without_a_sample_are_null(version: str, teacher: str) -> None:
    made = reinforced(version, settings_of(teacher))
    file = ColumnsFile.read(made.url, 0)
    assert file[2] == dict.fromkeys(("classes", "probabilities", "box", "flip"))
    assert file[3]["classes"].shape == (3, 2) and file[3]["box"].shape == (3, 4)


def test_a_shard_without_samples_has_its_rows(tmp_path: Path, teacher: str) -> None:
    samples = [(b"no image", {"concept": "red"})] * 3
    made = reinforced(write_version(tmp_path / "bad", samples), settings_of(teacher))
    assert made.totals["dropped"] == {"undecodable": 3}
    assert ColumnsFile.read(made.url, 0)[2]["classes"] is None
    assert made.manifest["extra"]["bytes_per_output"] is None and words(made)


def test_an_output_depends_on_its_image_alone(teacher: str) -> None:
    """Whatever the batch, its order, and the number of threads."""
    asked = Asked(settings_of(teacher, top=3, **COLOURFUL))
    names = list(COLOURS) * 3
    images = [
        Image(row, *decode(png(picture(name, row, "alone")), 48)) for row, name in enumerate(names)
    ]
    uids = [f"{row:032x}" for row in range(9)]
    with deterministic(1):
        together = asked.of(images, uids)
        backwards = asked.of(images[::-1], uids[::-1])
        alone = [asked.of([image], [uid]) for image, uid in zip(images, uids, strict=True)]
    with deterministic(2):
        threads = asked.of(images, uids)
    for name, values in together.items():
        np.testing.assert_array_equal(values, backwards[name][::-1])
        np.testing.assert_array_equal(values, np.concatenate([each[name] for each in alone]))
        np.testing.assert_array_equal(values, threads[name])


@pytest.mark.parametrize(("threads", "cache"), [(1, 0), (2, 16)])
def test_the_student_is_given_the_pixels_that_the_teacher_saw(
    version: str, teacher: str, small: Callable[..., Any], threads: int, cache: int
) -> None:
    """To the last bit, from another order, in other batches, and from decoded images kept."""
    made = reinforced(version, settings_of(teacher, **COLOURFUL))
    student = build(small("teacher_records", options={"classes": NAMES}))
    stream = Stream(
        [Source(version)], batch=7, canvas=made.manifest["extra"]["canvas"], shuffle=40, seed=3,
        cache_mib=cache, threads=threads, columns={"teacher": made.url.rpartition("/")[2]},
        unusable=student.settings.options.unusable, texts=True,
    )  # fmt: skip
    saw = {sample.row: sample.image for sample in read_samples(version, 1)}
    views, compared = [], 0
    with deterministic(threads):
        for batch in islice(stream.batches(stream.start()), 6):
            images = student.views(batch, CPU)["images"]
            for place, identifier in enumerate(batch.ids.tolist()):
                shard, row = shard_and_row(identifier)
                if shard != 1 or compared == 12:
                    continue
                fields = batch.columns[place]["teacher"]
                pixels = torch.from_numpy(decode(saw[row], 48)[0]).expand(32, -1, -1, -1)
                shown = [
                    replay.render(
                        pixels, replay.chosen([fields] * 32, [view] * 32), 32,
                        IMAGENET_MEAN, IMAGENET_STD,
                    )[0]
                    for view in range(3)
                ]  # fmt: skip
                same = [bool(torch.equal(images[place], each)) for each in shown]
                assert sum(same) == 1
                views.append(same.index(True))
                compared += 1
    assert compared == 12 and set(views) == {0, 1, 2}


def content(made: Artifact) -> dict[str, bytes]:
    return {
        file.path: Path(made.url, file.path).read_bytes()
        for part in made.parts
        for file in part.files
    }


def test_a_chunk_that_does_not_fit_is_halved(teacher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, seen, room = Asked(settings_of(teacher, views=1)), list[int](), 64
    given = label_teacher.LabelTeacher.probabilities

    def limited(self: Any, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        if len(images) > room:
            raise torch.OutOfMemoryError("out of memory")
        return given(self, images)

    monkeypatch.setattr(label_teacher.LabelTeacher, "probabilities", limited)
    blank = np.zeros((48, 48, 3), np.uint8)
    images = [Image(row, blank, (9, 9)) for row in range(150)]
    asked.chunk = 256
    made = asked.of(images, [str(row) for row in range(150)])
    assert made["classes"].shape == (150, 1, 2) and seen == [256, 128, 64, 64, 64]
    room = 16
    with pytest.raises(SluiceError, match="32 images do not fit into the memory of cpu"):
        asked.of(images[:40], [str(row) for row in range(40)])


def test_the_command_asks_and_tells(
    version: str, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pretrain.__main__ import app

    digest = artifacts.load(version).digest  # type: ignore[union-attr]
    shutil.copytree(version, tmp_path / "data" / digest)
    file = tmp_path / "reinforce.yaml"
    file.write_text(f"teachers: [{{network: {teacher}}}]\nviews: 2\ndevice: cpu\n")
    command = ["reinforce", "mine", "--settings", str(file), "--source", f"data@{digest}"]
    command += ["--store", str(tmp_path), "--executor", "inline"]
    for _ in range(2):  # the second time it is there
        app(command, result_action="return_value")
        told = capsys.readouterr().out
        assert "29 images, 58 outputs, 1 rows without" in told and "bytes an output" in told
    name = told.splitlines()[-1].partition(":")[0]
    assert (tmp_path / "data" / digest / "scores" / name / "manifest.json").is_file()


class KilledError(Exception):
    pass


class Dying(InlineRunner):
    """Ends after one item, as a killed process does."""

    def map(self, function: Any, items: Sequence[Any], **_: Any) -> Any:
        yield 0, function(items[0])
        raise KilledError


def test_at_most_120_bytes_for_top_ten_of_a_thousand() -> None:
    """Of probabilities and parameters that hardly repeat, with all that can be stored."""
    settings = settings_of("timm:x", views=8, top=10, **COLOURFUL)
    rng, count = np.random.default_rng(0), 500
    given = np.exp(rng.normal(0, 3, (count, 8, 1000)))
    classes, shares = outputs.shorten((given / given.sum(-1, keepdims=True)).astype(np.float32), 10)
    sizes = rng.integers(200, 900, (count, 2)).astype(np.float32)
    views = replay.draw(settings, [f"{row:032x}" for row in range(count)], sizes)
    assert views.keys() == replay.COLUMNS.keys()
    for name, values in views.items():
        kind, numbers = replay.COLUMNS[name]
        assert values.dtype == kind and values[0, 0].size == numbers
    columns = {"classes": classes, "probabilities": shares, **views}
    table = pa.table({name: column(each, range(count), count) for name, each in columns.items()})
    with tempfile.TemporaryDirectory() as folder:
        file = write_table(folder, "columns.parquet", table)
    assert 50 < file.bytes / (8 * count) <= 80


@pytest.mark.long
def test_killed_resumed_or_by_processes_the_bytes_are_the_same(
    version: str, teacher: str, tmp_path: Path
) -> None:
    settings = settings_of(teacher, seed=7, **COLOURFUL)
    copies = [shutil.copytree(version, tmp_path / name / "a") for name in ("x", "y", "z")]
    urls = [str(copy) for copy in copies]
    whole = reinforced(urls[0], settings)
    with pytest.raises(KilledError):
        reinforced(urls[1], settings, Dying())
    digest = artifacts.load(version).digest  # type: ignore[union-attr]
    draft = reinforce_draft(urls[1], digest, "teacher", settings)
    assert artifacts.load(draft.url) is None and artifacts.recorded_names(draft.url) == {"00000"}
    first = Path(draft.url, "columns", "00000.parquet").stat().st_mtime_ns
    again = reinforced(urls[1], settings)
    assert Path(draft.url, "columns", "00000.parquet").stat().st_mtime_ns == first
    spread = reinforced(urls[2], settings, LocalRunner(2))
    assert whole.content == again.content == spread.content
    assert content(whole) == content(again) == content(spread)


def test_a_student_of_other_classes_is_refused_before_its_first_step(
    version: str, teacher: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    made = reinforced(version, settings_of(teacher))
    folder, source = made.url.rpartition("/")[2], Source(version)

    def job(*classes: str) -> Any:
        options = {"classes": classes}
        settings = small("teacher_records", options=options, columns={"teacher": folder})
        draft = run_draft(str(tmp_path), "student", settings, {"a": "0" * 16})
        return job_of(draft, [source], settings)

    assert job(*NAMES).settings.columns == {"teacher": folder}
    with pytest.raises(SluiceError, match=r"purple only of options.classes; blue only of .*scores"):
        job("red", "green", "purple")
    with pytest.raises(SluiceError, match="the same in another order"):
        job("green", "red", "blue")


def test_a_label_that_no_teacher_knows_is_told_first(tmp_path: Path, teacher: str) -> None:
    samples = [(b"", {"concept": name}) for name in ("red", "cow", "cow", "blue")]
    version = write_version(tmp_path / "cows", samples)
    reinforce_items(version, settings_of(teacher))
    with pytest.raises(SluiceError, match=r"2 samples have a concept .* 'cow'; its 3 classes are"):
        reinforce_items(version, settings_of(teacher, label="concept"))
    with pytest.raises(SluiceError, match="has no names for its classes"):
        reinforce_items(version, settings_of("timm:test_resnet", label="concept"))
    with pytest.raises(SluiceError, match="cow only of `classes`; green only of"):
        reinforce_draft(
            version, "0" * 16, "t", settings_of(teacher, classes=("red", "cow", "blue"))
        )
    with pytest.raises(SluiceError, match="there is no teacher at"):
        reinforce_draft(version, "0" * 16, "t", settings_of(str(tmp_path / "nowhere")))


def test_vectors_are_stored_too_and_learnt_from(
    version: str, teacher: str, runs: dict[str, str], small: Callable[..., Any], tmp_path: Path
) -> None:
    for network, width in ((teacher, 96), (runs["dino"], 24), (runs["clip"], 16)):
        made = reinforced(version, settings_of(network, output="vectors", views=2), name="vectors")
        row = ColumnsFile.read(made.url, 1)[0]
        assert row["vectors"].shape == (2, width) and row["vectors"].dtype == np.float16
        assert made.manifest["extra"]["width"] == width
    options = {"stored": "vectors", "width": 16}
    columns = {"vectors": made.url.rpartition("/")[2]}
    settings = small("feature_distill", options=options, columns=columns, steps=8)
    digest = artifacts.load(version).digest  # type: ignore[union-attr]
    draft = run_draft(str(tmp_path), "student", settings, {"a": digest})
    run = train(draft, [Source(version)], settings, "local", SilentDisplay())
    lines = [json.loads(line) for line in Path(run.url, "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["cosine"] > lines[0]["cosine"]
    wrong = small("feature_distill", options={**options, "width": 8}, columns=columns)
    with pytest.raises(SluiceError, match=r"options.width is 8, and the vectors .* have 16"):
        job_of(run_draft(str(tmp_path), "s", wrong, {"a": digest}), [Source(version)], wrong)
    with pytest.raises(SluiceError, match="has no classifier"):
        reinforced(version, settings_of(runs["dino"]))


def test_a_map_is_learnt_from(
    version: str, teacher: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    made = reinforced(version, settings_of(teacher, output="map"), name="map")
    row = ColumnsFile.read(made.url, 1)[0]
    assert row.keys() == {"classes", "scores"} and row["scores"].shape[2:] == (2,)
    columns = {"label_map": made.url.rpartition("/")[2]}
    settings = small("label_maps", options={"classes": NAMES}, columns=columns, steps=3)
    digest = artifacts.load(version).digest  # type: ignore[union-attr]
    draft = run_draft(str(tmp_path), "student", settings, {"a": digest})
    run = train(draft, [Source(version)], settings, "local", SilentDisplay())
    assert run.settings["columns"] == columns
