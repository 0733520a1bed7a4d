"""The mix of original and generated captions: shares, fallbacks, and who reads what was drawn."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from infra import artifacts
from infra.artifacts import Part, Spec
from infra.dataset import part_name, write_table
from infra.errors import SluiceError
from pretrain import objectives
from pretrain.data import Source, Stream, open_source
from pretrain.job import Job
from pretrain.loop import run
from pretrain.ranks import joined
from pretrain.run import job_of, run_draft
from pretrain.settings import TrainSettings
from tests.pretrain.batches import batch
from tests.pretrain.conftest import picture, png, write_version
from tests.pretrain.test_loop import StoppedError, files, go, stop_at
from tests.pretrain.test_ranks import together

CPU = torch.device("cpu")
FOLDER = "blip-0123456789abcdef"
COLUMNS = {"blip": FOLDER}


def captioned(count: int, text: str = "new", **fields: Any) -> Any:
    """Samples `caption N` of which another model says `new N`."""
    columns = [{"blip": {"caption": f"{text} {number}"}} for number in range(count)]
    return batch(count, side=8, columns=columns, **fields)


def add_captions(url: str, texts: Sequence[str | None], folder: str = FOLDER) -> str:
    made, first = f"{url}/scores/{folder}", 0
    for part in open_source(url).parts:
        table = pa.table({"caption": pa.array(texts[first : first + part.rows], pa.string())})
        first += part.rows
        file = write_table(made, f"columns/{part_name(int(part.name))}.parquet", table)
        artifacts.record_part(made, Part(part.name, (file,), part.rows, part.rows), 0, 0)
    artifacts.commit(made, Spec("scores", "test"))
    return url


def version(folder: Path, texts: Sequence[str | None], own: str = "own {}") -> str:
    samples = [
        (png(picture(("red", "blue")[row % 2], row, "mix")), {"caption": own.format(row)})
        for row in range(len(texts))
    ]
    return add_captions(write_version(folder, samples), texts)


@pytest.fixture
def make(small: Callable[..., Any]) -> Callable[..., TrainSettings]:
    def settings(captions: Mapping[str, float], name: str = "clip", **changes: Any) -> Any:
        made = small(name)
        given = {**made.options.model_dump(), **changes.get("options", {}), "captions": captions}
        return small(name, **{"columns": COLUMNS, **changes, "options": given})

    return settings


def test_each_kind_is_read_as_often_as_its_share_says(make: Any) -> None:
    shares = {"caption": 1.0, "blip": 2.0, "git": 1.0, "never": 0.0}
    columns = {name: f"{name}-0" for name in ("blip", "git")}
    objective = objectives.build(make(shares, columns=columns))
    places, count = 2000, 0
    rows = [{"blip": {"caption": "b"}, "git": {"caption": "g"}, "never": {"caption": "n"}}] * places
    samples = batch(places, first=5000, side=8, captions=["c"] * places, columns=rows)
    found = objective.captions(samples)
    for word, share in (("c", 0.25), ("b", 0.5), ("g", 0.25)):
        seen = found.count(word)
        assert abs(seen / places - share) < 4 * np.sqrt(share * (1 - share) / places)
        count += seen
    assert count == places
    assert objective.captions(samples) == found
    some = np.array([3, 1500, 7, 8])
    assert objective.captions(samples.select(some)) == [found[row] for row in some]
    other = objectives.build(make(shares, columns=columns, seed=1))
    assert other.captions(samples) != found
    told = objective.told({"read": torch.tensor([0, 1, 1, 2])})  # type: ignore[operator]
    assert {name: float(value) for name, value in told.items()} == {
        "read_caption": 0.25,
        "read_blip": 0.5,
        "read_git": 0.25,
    }


def test_a_sample_without_a_caption_of_the_kind_keeps_its_own(make: Any) -> None:
    objective = objectives.build(make({"blip": 1.0}))
    rows: list[dict[str, Any]] = [
        {"blip": {"caption": "new"}}, {"blip": {"caption": None}}, {"blip": {"caption": ""}}, {},
    ]  # fmt: skip
    samples = batch(4, captions=["a", "b", "c", ""], columns=rows)
    assert objective.captions(samples) == ["new", "b", "c", ""]
    found = objective.views(samples, CPU)
    assert found["read"].tolist() == [1, 0, 0, 0]
    plain = objectives.build(make({}, columns={}))
    assert plain.captions(samples) == ["a", "b", "c", ""]
    assert "read" not in plain.views(samples, CPU)


@pytest.mark.parametrize("name", ["clip", "siglip", "albef_itc", "clip_distill"])
def test_every_objective_of_pairs_reads_what_was_drawn(name: str, make: Any) -> None:
    """All of it: tokens, those of a teacher, and the keys of equal captions."""
    options = {"same_caption": "positive"} if name.startswith("clip") else {}
    objective = objectives.build(make({"blip": 1.0}, name, options=options))
    plain = objectives.build(make({}, name, options=options, columns={}))
    found = objective.views(captioned(8), CPU)
    told = plain.views(batch(8, side=8, captions=[f"new {number}" for number in range(8)]), CPU)
    assert found.pop("read").tolist() == [1] * 8
    assert found.keys() == told.keys() >= {"tokens"}
    for view, value in told.items():
        assert value is None or torch.equal(found[view], value)
    with torch.no_grad():
        _, figures = objective(objective.views(captioned(8), CPU), 0.5)
    assert float(figures["read_blip"]) == 1 and float(figures["read_caption"]) == 0


def test_a_part_of_a_joint_run_has_a_mix_of_its_own(small: Any) -> None:
    given = small("joint").options.model_dump()
    given["parts"]["pairs"]["options"] = {"captions": {"blip": 1.0}}
    settings = small("joint", options=given, columns=COLUMNS)
    assert settings.options.reads() == {"blip"}
    objective = objectives.build(settings)
    source = frozenset({"pairs"})
    fields = '{"labels": ["red"]}'
    samples = replace(captioned(8, texts=[fields] * 8), names=[source], captions=[""] * 8)
    found = objective.views(samples, CPU)
    assert found["pairs/read"].tolist() == [1] * 8
    with pytest.raises(SluiceError, match="none of its first 8 samples has a caption"):
        objective.views(replace(samples, columns=[{}] * 8), CPU)


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        ({"caption": -1.0, "blip": 2.0}, "captions.caption is -1.0"),
        ({"blip": float("nan")}, "captions.blip is nan"),
        ({"blip": float("inf")}, "captions.blip is inf"),
        ({"caption": 0.0, "blip": 0.0}, "no share above 0"),
        ({"blip": 1e308, "git": 1e308}, "shares without end"),
    ],
)
def test_what_is_no_mix_is_refused(captions: Any, words: str, make: Any) -> None:
    with pytest.raises(ValueError, match=words):
        make(captions, columns={})


def test_a_digest_knows_the_mix_and_not_its_order(make: Any) -> None:
    assert "captions" not in make({}, columns={}).identity()["options"]
    one, other = make({"caption": 1.0, "blip": 3.0}), make({"blip": 3.0, "caption": 1.0})
    assert json.dumps(one.identity()) == json.dumps(other.identity())
    assert one.options.reads() == {"blip"}
    assert make({"caption": 1.0}, columns={}).options.reads() == frozenset()
    with pytest.raises(ValueError, match="which no option of clip reads"):
        make({"caption": 1.0, "blip": 0.0})


@pytest.mark.parametrize("changes", [{}, {"micro_batch": 3}])
def test_a_run_that_was_stopped_gives_the_same_bytes(
    changes: dict[str, Any], make: Any, tmp_path: Path
) -> None:
    texts = [None if row % 4 == 0 else f"new {row}" for row in range(24)]
    url = version(tmp_path / "data" / "v", texts)
    settings = make({"caption": 1.0, "blip": 1.0}, steps=12, **changes)
    jobs = [Job(str(tmp_path / name), "d", settings, (Source(url),)) for name in "ab"]
    run(jobs[0], go)
    with pytest.raises(StoppedError):
        run(jobs[1], stop_at(9))
    run(jobs[1], go)
    assert files(jobs[0].url) == files(jobs[1].url)
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    read = np.mean([json.loads(line)["read_blip"] for line in lines])
    assert 0.15 < read < 0.6  # three eighths: half of those that have one
    plain = Job(str(tmp_path / "c"), "d", make({}, columns={}, steps=12), (Source(url),))
    run(plain, go)
    assert files(plain.url) != files(jobs[0].url)


def test_alarms_and_checks_look_at_what_is_read(make: Any, tmp_path: Path) -> None:
    """Captions that samples came with are all different; then all are empty."""
    same = version(tmp_path / "data" / "same", ["all alike"] * 24)
    job = Job(str(tmp_path / "a"), "d", make({"blip": 1.0}, steps=6), (Source(same),))
    run(job, go)
    alarms = (tmp_path / "a" / "alarms.jsonl").read_text()
    assert "100% of a batch have the caption of another sample in it" in alarms
    mute = version(tmp_path / "data" / "mute", [f"new {row}" for row in range(24)], own="")
    run(Job(str(tmp_path / "b"), "d", make({"blip": 1.0}, steps=2), (Source(mute),)), go)
    own = make({"caption": 1.0}, columns={}, steps=2)
    with pytest.raises(SluiceError, match="none of the first 8 samples has a caption"):
        run(Job(str(tmp_path / "c"), "d", own, (Source(mute),)), go)


def test_columns_without_captions_are_refused(make: Any, tmp_path: Path) -> None:
    url = version(tmp_path / "data" / "v", ["new"] * 8)
    other = f"{url}/scores/blip-0"
    file = write_table(other, "columns/00000.parquet", pa.table({"tokens": [1] * 8}))
    artifacts.record_part(other, Part("00000", (file,), 8, 8), 0, 0)
    artifacts.commit(other, Spec("scores", "test"))
    settings = make({"blip": 1.0}, columns={"blip": "blip-0"})
    source = [Source(url)]
    draft = run_draft(str(tmp_path), "mine", settings, {"v": open_source(url).digest})
    with pytest.raises(SluiceError, match="has no column 'caption' of text, but tokens"):
        job_of(draft, source, settings)
    job_of(draft, source, make({"blip": 1.0}))
    with pytest.raises(SluiceError, match="read the score columns 'blip'"):
        run_draft(str(tmp_path), "mine", make({"blip": 1.0}, columns={}), {"v": "0" * 16})


READ = """
import json, sys
from torch import distributed
from pretrain.settings import TrainSettings
from tests.pretrain.test_caption_mix import read
url, settings, count = json.loads(sys.argv[1])
distributed.init_process_group("gloo")
print(json.dumps(read(url, TrainSettings.model_validate(settings), count)))
"""


def read(url: str, settings: TrainSettings, count: int) -> list[tuple[int, str]]:
    """Place and caption of the samples of `count` batches, those of this process."""
    objective = objectives.build(settings)
    stream = Stream(
        [Source(url)], batch=8, canvas=8, shuffle=20, seed=3, cache_mib=1, threads=1,
        columns=settings.columns, ranks=joined(),
    )  # fmt: skip
    found: list[tuple[int, str]] = []
    for samples in islice(stream.batches(stream.start()), count):
        found += zip(samples.places.tolist(), objective.captions(samples), strict=True)
    return found


@pytest.mark.long
def test_two_processes_read_what_one_reads(make: Any, tmp_path: Path) -> None:
    url = version(tmp_path / "data" / "v", [f"new {row}" for row in range(40)])
    settings = make({"caption": 1.0, "blip": 1.0})
    alone = dict(read(url, settings, 6))
    given = json.dumps([url, settings.model_dump(mode="json"), 6])
    parts = [dict(json.loads(said)) for said in together(2, "-c", READ, given)]
    assert len(alone) == 48 and min(map(len, parts)) > 0
    assert {**parts[0], **parts[1]} == alone
    assert {text.split()[0] for text in alone.values()} == {"own", "new"}
