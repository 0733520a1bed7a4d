"""Existing tars to a dataset version, and image statistics, against the bare limits of each.

The tars are used where they are: ingest reads them once, and writes rows.

Ingest is measured against reading the tars and hashing every byte with nothing else; the pixel
scorers against decoding alone with Pillow. One core, CPU seconds, the limit in the same run.
Run: python tests/bench/tars.py
"""

import hashlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from record import keep

from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.score import ScoreWork
from curation.scores.registry import pixel_scorers
from curation.settings import SourceSettings
from infra.artifacts import Part
from infra.shards import TarWriter, read_tar

SAMPLES = 2000
TURNS, DECODING_TURNS = 60, 7  # of reading, a fraction of a second each; of decoding, seconds
SIDES = {"large": 384, "middle": 256, "small": 96}  # pixels; LAION's are 384 after resizing


def write_tar(path: Path, side: int) -> None:
    """JPEGs of smooth noise, which is about as hard to code as photographs."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        tar = TarWriter(file)
        for index in range(SAMPLES):
            coarse = rng.integers(0, 256, (side // 6, side // 6, 3), np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(coarse).resize((side, side)).save(buffer, "JPEG", quality=90)
            facts = {"url": f"https://example.org/{index}.jpg", "caption": f"noise {index}"}
            tar.add(f"{index:09d}.jpg", buffer.getvalue())
            tar.add(f"{index:09d}.txt", facts["caption"].encode())
            tar.add(f"{index:09d}.json", json.dumps(facts).encode())
        tar.close()


def rates(functions: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """The most samples a CPU second over some turns, in each of which all run once.

    The most, since what else the machine does only adds, and not to all the same: a busy
    neighbour on the same core slows Python by half and leaves SHA-256 as fast as it was.
    """
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(turns):
        for name, function in functions.items():
            start = time.process_time()
            function()
            found[name].append(SAMPLES / (time.process_time() - start))
    return {name: max(each) for name, each in found.items()}


def read_and_hash(path: Path) -> None:
    with path.open("rb") as file:
        sha256 = hashlib.sha256()
        while data := file.read(2**20):
            sha256.update(data)


def decode_all(path: Path) -> None:
    with path.open("rb") as file:
        for sample in read_tar(file):
            with Image.open(io.BytesIO(sample.members["jpg"])) as image:
                np.asarray(image.convert("RGB"))


def measure(folder: Path, side: int) -> dict[str, float]:
    path = folder / "pool" / "00000.tar"
    path.parent.mkdir()
    write_tar(path, side)
    sources = [SourceSettings(tars=str(path))]
    draft = ingest_draft(str(folder / "store"), "pool", sources, str(side))
    [item] = ingest_items(sources)
    ingest = {
        "bare_read_and_hash": lambda: read_and_hash(path),
        "ingest": lambda: IngestWork(draft.url)(item.value, [""]),
    }
    scores: dict[str, Callable[[], object]] = {"bare_decode": lambda: decode_all(path)}
    for scorers in ([scorer] for scorer in pixel_scorers()):
        scores[f"score_{scorers[0].name}"] = lambda s=scorers: score(draft.url, s)
    scores["score_all"] = lambda: score(draft.url, pixel_scorers())
    found = {**rates(ingest, TURNS), **rates(scores, DECODING_TURNS)}
    return {"megabytes": path.stat().st_size / 1e6, **found}


def score(url: str, scorers: list) -> dict[str, Part]:
    work = ScoreWork(url, {scorer.name: scorer for scorer in scorers})
    return work(0, [scorer.name for scorer in scorers])


def main() -> None:
    found = {}
    for name, side in SIDES.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(Path(folder), side)
    report = {
        "what": "samples per CPU second on one core, by side in pixels",
        "sizes": {"samples": SAMPLES, **SIDES},
        "rates": {
            name: {key: round(value, 1) for key, value in each.items()}
            for name, each in found.items()
        },
        "of_the_limit": {
            name: {
                "ingest": round(each["ingest"] / each["bare_read_and_hash"], 3),
                "score_all": round(each["score_all"] / each["bare_decode"], 3),
            }
            for name, each in found.items()
        },
    }
    keep("tars", report, "numpy", "pillow", "pyarrow")


if __name__ == "__main__":
    main()
