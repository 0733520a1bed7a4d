"""A small store with everything a report can show, made through the real functions."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from curation.curate import CurateWork, curate_draft
from curation.dedup import EDGES
from curation.rules_settings import DedupSettings, NearSettings, RuleSettings
from curation.selection.select import SelectionWork, selection_draft
from curation.selection.settings import SelectionSettings
from curation.units import BETTER, column
from curation.verdicts import VerdictsWork, verdicts_draft
from flows.report import ReportContext
from infra import artifacts
from infra.artifacts import Artifact, Part, Spec
from infra.dataset import (
    ROWS,
    Dataset,
    index_id,
    make_uid,
    part_name,
    publish,
    sample_key,
    write_shard,
    write_table,
)
from infra.digests import generator
from infra.filesystem import FilePart, join, write_bytes
from pretrain.evaluate.stage import RESULTS

HOSTILE = '</style><script>alert("x")</script><img src=x onerror=alert(1)> & \u202egnp.exe\x00'
RULES = (
    RuleSettings(reason="corrupt", drop="image.decode_error IS NOT NULL"),
    RuleSettings(reason="too_small", score="least(rows.width, rows.height)", min=32),
    RuleSettings(reason="blank", score="image.entropy", min=1.0),
    RuleSettings(reason="evaluation_leak", score="contamination.eval_similarity", max=0.95),
    RuleSettings(reason="mismatched_caption", score="clip.margin", min=0.1),
)
DEDUP = DedupSettings(
    near=(
        NearSettings(threshold=0.95, floor=0.85),
        NearSettings(vectors="clip/image", threshold=0.97, floor=0.9),
    )
)
KINDS = (
    "mismatched_caption", "exact_duplicate", "near_duplicate", "corrupt", "blank", "too_small",
    "evaluation_leak",
)  # fmt: skip
HELD_OUT = 900_000  # the first number of the held-out pictures


@dataclass(frozen=True)
class Timing:
    name: str
    seconds: float
    cpu_seconds: float
    rows: int
    from_store: bool


@dataclass(frozen=True)
class Row:
    """A sample to be: what was planted in it, and of which row it is a copy."""

    shard: int
    row: int
    defect: str
    twin: int | None

    held_out: bool = False

    @property
    def id(self) -> int:
        return index_id(self.shard, self.row)

    @property
    def number(self) -> int:
        return self.row + 1000 * self.shard + HELD_OUT * self.held_out

    @property
    def shown(self) -> int:
        """The number of the held-out picture that a leak is a copy of, else its own."""
        return HELD_OUT + self.row % 30 if self.defect == "evaluation_leak" else self.number


def plan(shards: int, rows: int) -> list[Row]:
    """Which defect each row has: every tenth row or so; a copy's twin is 40 rows before it."""
    planned = []
    for number in range(shards * rows):
        defect = KINDS[number // 7 % len(KINDS)] if number % 7 == 3 and number > 40 else ""
        if number == 2:
            defect = "rejected"
        twin = number // 40 * 40 - 40 if defect.endswith("duplicate") else None
        planned.append(Row(number // rows, number % rows, defect, twin))
    return planned


def picture(number: int, defect: str) -> bytes:
    """A few shapes in colours that no other number has."""
    rng = generator(number, "picture")
    side = 20 if defect == "too_small" else int(rng.integers(64, 129))
    image = Image.new("RGB", (side, side), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(0 if defect == "blank" else 6):
        a, b = np.sort(rng.integers(0, side, (2, 2)), axis=0).tolist()
        shape = (draw.ellipse, draw.rectangle)[int(rng.integers(2))]
        shape((*a, b[0] + 2, b[1] + 2), fill=tuple(rng.integers(0, 256, 3).tolist()))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    data = buffer.getvalue()
    return data[: len(data) // 2] if defect == "corrupt" else data


def commit(url: str, spec: Spec, parts: Sequence[Part]) -> Artifact:
    for part in parts:
        artifacts.record_part(url, part, 0.5, 0.4)
    return artifacts.commit(url, spec)


def make_dataset(store: str, name: str, planned: Sequence[Row]) -> Artifact:
    spec = Spec("dataset", "curation.ingest", {"name": name})
    url = join(store, name, spec.digest)
    parts = []
    for shard in sorted({entry.shard for entry in planned}):
        rows, images = [], []
        for entry in (row for row in planned if row.shard == shard):
            number = entry.number
            like = planned[entry.twin] if entry.twin is not None else entry
            image = picture(like.shown, entry.defect)
            ok = entry.defect != "rejected"
            caption = (
                HOSTILE if entry.row == 5 else f"a photo of thing {number % 9}, number {number}"
            )
            rows.append(
                {
                    "uid": make_uid(f"https://example.org/{number}.jpg", caption, image),
                    "shard": shard,
                    "row": entry.row,
                    "status": "ok" if ok else "rejected",
                    "reason": None if ok else "missing_image",
                    "key": sample_key(shard, entry.row) if ok else None,
                    "source": f"{name}/{shard}.tar: {number}",
                    "url": f"https://example.org/{number}.jpg",
                    "caption": caption if ok else None,
                    "sha256": None,
                    "bytes": len(image),
                    "format": "jpg",
                    "width": 20 if entry.defect == "too_small" else 80,
                    "height": 80,
                    "meta": "{}",
                }
            )
            images.append(image if ok else None)
        table = pa.Table.from_pylist(rows, ROWS)
        files = write_shard(url, shard, table, images)
        kept = sum(image is not None for image in images)
        lost = {"missing_image": len(rows) - kept} if len(rows) > kept else {}
        parts.append(Part(part_name(shard), tuple(files), len(rows), kept, lost))
    return commit(url, spec, parts)


COLUMNS = {
    "image": pa.schema([("decode_error", pa.string()), column("entropy", pa.float64(), "bits")]),
    "clip": pa.schema([column("margin", pa.float64(), "nats", BETTER)]),
    "contamination": pa.schema([("eval_similarity", pa.float32()), ("eval_uid", pa.string())]),
}


def make_scores(pool: Artifact, planned: Sequence[Row], held_out: Sequence[str]) -> dict[str, str]:
    """Columns that find most of what was planted, and little else; scorer -> URL."""
    rng = generator("scores")
    columns: dict[str, list[dict[str, Any]]] = {name: [] for name in COLUMNS}
    for entry in planned:
        broken = entry.defect in ("corrupt", "rejected")
        entropy = 0.2 * rng.random() if entry.defect == "blank" else rng.normal(5, 0.8)
        margin = rng.normal(-0.2, 0.12) if entry.defect == KINDS[0] else rng.normal(0.5, 0.15)
        error = "truncated" if entry.defect == "corrupt" else None
        columns["image"].append(
            {"decode_error": error, "entropy": None if broken else abs(entropy)}
        )
        columns["clip"].append({"margin": None if broken else margin})
        leak = entry.defect == "evaluation_leak"
        closest = held_out[entry.shown - HELD_OUT if leak else entry.row % 30]
        similarity = 0.96 + 0.04 * rng.random() if leak else 0.9 * rng.random()
        columns["contamination"].append(
            {"eval_similarity": None if broken else similarity, "eval_uid": closest}
        )
    urls = {}
    for name, values in columns.items():
        spec = Spec("scores", f"curation.scores.{name}", {}, (pool.digest,))
        url = pool.path("scores", f"{name}-{spec.digest}")
        parts = []
        for part in pool.parts:
            mine = [
                v for v, row in zip(values, planned, strict=True) if row.shard == int(part.name)
            ]
            table = pa.Table.from_pylist(mine, COLUMNS[name])
            file = write_table(url, f"columns/{part.name}.parquet", table)
            parts.append(Part(part.name, (file,), len(mine), len(mine)))
        commit(url, spec, parts)
        urls[name] = url
    return urls


def make_edges(pool: Artifact, planned: Sequence[Row]) -> Artifact:
    """One pair for every planted copy, and some unplanted ones just under the threshold."""
    spec = Spec("edges", "curation.dedup", {"near": {"descriptor/pixels": 0.85}}, (pool.digest,))
    url = pool.path("edges", spec.digest)
    rng = generator("edges")
    edges = []
    for entry in planned:
        if entry.twin is not None:
            exact = entry.defect == "exact_duplicate"
            similarity = 1.0 if exact else 0.93 + 0.06 * rng.random()
            kind = "exact" if exact else "descriptor/pixels"
            twin = planned[entry.twin]
            edges.append({"a": twin.id, "b": entry.id, "kind": kind, "similarity": similarity})
            if not exact:
                bits = int(rng.integers(8, 12))
                more = {"perceptual": 1 - bits / 64, "clip/image": 0.94 + 0.05 * rng.random()}
                edges += [edges[-1] | {"kind": k, "similarity": s} for k, s in more.items()]
    table = pa.Table.from_pylist(edges, EDGES).sort_by([("a", "ascending")])
    file = write_table(url, "edges.parquet", table)
    return commit(
        url,
        spec,
        [
            Part(
                "all", (file,), len(edges), len(edges), extra={"recall": {"descriptor/pixels": 1.0}}
            )
        ],
    )


def make_verdicts(pool: Artifact, scores: Mapping[str, str], edges: Artifact) -> Artifact:
    folders = {name: url.rpartition("/")[2] for name, url in scores.items()}
    draft = verdicts_draft(pool.url, pool.digest, folders, edges.digest, RULES, DEDUP)
    work = VerdictsWork(draft.url, pool.url, folders, edges.url, RULES, DEDUP)
    return commit(draft.url, draft.spec, [work(None, [""])[""]])


def make_curated(
    store: str, pool: Artifact, scores: Mapping[str, str], edges: Artifact, verdicts: Artifact
) -> Artifact:
    folders = {name: url.rpartition("/")[2] for name, url in scores.items()}
    draft = curate_draft(
        store, "curated", pool.url, pool.digest, verdicts.digest, folders, edges.digest
    )
    work = CurateWork(draft.url, pool.url, verdicts.url)
    artifact = commit(
        draft.url, draft.spec, [work(int(part.name), [""])[""] for part in pool.parts]
    )
    publish(store, "curated", artifact)
    return artifact


def make_selection(pool: Artifact, verdicts: Artifact) -> Artifact:
    """A plan that takes all that verdicts keep."""
    settings = SelectionSettings.model_validate(
        {"plan": [{"kind": "quotas", "by": "rows.format", "share": 1}]}
    )
    draft = selection_draft(pool.url, pool.digest, {}, verdicts.digest, settings)
    work = SelectionWork(draft.url, pool.url, {}, verdicts.url, settings)
    return commit(draft.url, draft.spec, [work(None, [""])[""]])


def make_run(store: str, name: str, objective: str, floor: float) -> Artifact:
    spec = Spec("run", f"pretrain.{objective}", {"name": name})
    url = join(store, "runs", name, spec.digest)
    rng = generator(name)
    lines = [
        json.dumps(
            {
                "step": step,
                "samples": step * 128,
                "loss": floor + 3 * float(np.exp(-step / 60)) + 0.15 * float(rng.normal()),
            }
        )
        for step in range(1, 301)
    ]
    file = write_bytes(url, "metrics.jsonl", "\n".join(lines).encode())
    return commit(url, spec, [Part("all", (file,), 300, 300)])


def write_evaluation(store: str, gain: float = 0.08, seeds: bool = False) -> Artifact:
    """Two CLIP models `gain` apart, two more encoders and two baselines; with `seeds` twice."""
    pairs = [["clip", "raw"], ["clip-1", "raw-1"]][: 1 + seeds]
    accuracy = {"dino": 0.58, "mae": 0.5, "random": 0.31, "pixels": 0.38}
    for ours, theirs in pairs:
        accuracy |= {ours: 0.62 + gain, theirs: 0.62}
    encoders = {name: f"digest-{name}" for name in sorted(accuracy)}
    encoders |= {"random": "random:digest-clip", "pixels": "pixels"}
    settings = {
        "encoders": encoders,
        "tasks": ["zero_shot", "knn", "linear_probe"],
        "confidence": 0.95,
        "compare": [{"name": "curated over raw pool", "pairs": pairs}],
        "gain": gain,
    }
    spec = Spec("evaluation", "evaluate", settings)
    url = join(store, "evaluations", spec.digest)
    files: list[FilePart] = []
    for name, value in accuracy.items():
        rows = [
            figure(name, task, metric, value + shift, 0.04)
            for shift, task in ((0.0, "zero_shot"), (0.12, "knn"), (0.17, "linear_probe"))
            for metric in ("accuracy", "mean_per_class")
            if task != "zero_shot" or name.startswith(("clip", "raw"))
        ]
        table = pa.Table.from_pylist(rows, RESULTS)
        files.append(write_table(url, f"results/{name}.parquet", table))
    name, metric = ("curated over raw pool", "accuracy_over_seeds")
    name, metric = (name, metric) if seeds else ("clip - raw", "accuracy")
    compared = [
        figure(name, task, metric, gain, 0.03) for task in ("zero_shot", "knn", "linear_probe")
    ]
    artifacts.record_part(url, Part("all", tuple(files), 450, 450), 1.0, 1.0)
    return artifacts.commit(url, spec, {"comparisons": compared})


@pytest.fixture(scope="session")
def make_evaluation() -> Callable[..., Artifact]:
    return write_evaluation


def figure(encoder: str, task: str, metric: str, value: float, half: float) -> dict[str, Any]:
    return {
        "encoder": encoder, "task": task, "metric": metric, "value": value,
        "ci_low": value - half, "ci_high": value + half, "n": 450, "seed": 0,
    }  # fmt: skip


def make_canaries(store: str, pool: Artifact, planned: Sequence[Row]) -> str:
    dataset = Dataset(pool)
    uids = [uid for shard in dataset.shards for uid in dataset.rows(shard)["uid"].to_pylist()]
    entries = [
        {
            "uid": uids[place],
            "defect": row.defect,
            "twin_uid": None if row.twin is None else uids[row.twin],
        }
        for place, row in enumerate(planned)
        if row.defect in KINDS
    ]
    types = pa.schema([("uid", pa.string()), ("defect", pa.string()), ("twin_uid", pa.string())])
    write_table(store, "canaries.parquet", pa.Table.from_pylist(entries, types))
    return join(store, "canaries.parquet")


def make_store(store: str, shards: int = 3, rows: int = 90) -> ReportContext:
    """Everything, and the context that names it."""
    planned = plan(shards, rows)
    pool = make_dataset(store, "pool", planned)
    held_out = make_dataset(
        store, "evaluation", [Row(0, row, "", None, held_out=True) for row in range(30)]
    )
    uids = Dataset(held_out).rows(0)["uid"].to_pylist()
    scores = make_scores(pool, planned, uids)
    edges = make_edges(pool, planned)
    verdicts = make_verdicts(pool, scores, edges)
    curated = make_curated(store, pool, scores, edges, verdicts)
    runs = (("filter", "clip", 1.6), ("clip", "clip", 1.2), ("raw", "clip", 1.9),
            ("dino", "dino", 4.0), ("mae", "mae", 0.4))  # fmt: skip
    names = (
        "ingest",
        "score",
        "duplicate pairs",
        "verdicts",
        "curated version",
        "clip",
        "evaluate",
    )
    return ReportContext(
        pool=pool.url,
        curated=curated.url,
        verdicts=verdicts.url,
        selection=make_selection(pool, verdicts).url,
        edges=edges.url,
        scores=scores,
        canaries=make_canaries(store, pool, planned),
        runs={name: make_run(store, name, *how).url for name, *how in runs},
        evaluation=write_evaluation(store).url,
        held_out=held_out.url,
        fractals=pool.url,
        filter_model="A filter network of 3.9 million parameters, trained on the trusted split.",
        filter_trained=True,
        recipe={"name": "demo", "curate": {"rules": [rule.model_dump() for rule in RULES]}},
        steps=[
            Timing(name, 3.0 * place + 0.2, 2.0 * place, shards * rows, place % 3 == 2)
            for place, name in enumerate(names)
        ],
    )


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ReportContext]:
    """(store, context) of a run with everything in it; read it, do not change it."""
    store: Path = tmp_path_factory.mktemp("store")
    return str(store), make_store(str(store))
