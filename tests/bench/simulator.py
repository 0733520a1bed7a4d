"""The simulator against a run 100 times as large as what it was calibrated with.

The recipe curates a pool of tars with pictures made on the spot (smooth colours with noise, 64 to
160 pixels) and indexes it: ingest, scores, a small CLIP, embeddings, duplicates, verdicts, version,
index. Small runs, of pools and tars of unequal size, are its calibration; then the large one is
foretold, run, and compared: time, memory of the largest worker, bytes. Promised: within 20 %. So is
one of 10 times the rows in tars ten times as large, which then is part of the calibration for 5.85
billion pairs, foretold only.
Run: python tests/bench/simulator.py [--rows 1000] [--times 100] [--logs FOLDER]
Only `--times 100` of 1,000 rows is kept: about 9 minutes of two quiet cores. `--times 10` is a try.
"""

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from flows.simulate.calibration import read_log  # noqa: E402
from flows.simulate.cluster import load_cluster, this_machine  # noqa: E402
from flows.simulate.forecast import Forecast, forecast  # noqa: E402
from flows.simulate.laws import Laws, fit  # noqa: E402
from infra.shards import TarWriter  # noqa: E402
from tests.bench.record import keep  # noqa: E402

ROWS, TIMES = 1000, 100  # of the larger small pools; how much larger the large one is
IN_A_TAR = 100  # of the large run
SHAPES = ((0.25, 25), (1, 100), (1, 25))  # of a calibration: its rows beside ROWS, those of a tar
LARGER = (10, 1000)  # one more, of which what a row takes shows above the noise
WORKERS = 2
CLUSTER = ROOT / "infra/deploy/simulate/cluster.yaml"
WORDS = ("red", "house", "blue", "sky", "old", "boat", "green", "hill", "dog", "tall", "tree")
RECIPE = """
name: simulated
data:
  demo: null
  pool: [{{tars: "{pool}/*.tar"}}]
  trusted: [{{tars: "{trusted}/*.tar"}}]
  evaluation: []
  canaries: null
filter:
  references: 64
  train:
    objective: clip
    model: &model
      embed_dim: 64
      vision_cfg: {{timm_model_name: test_resnet, timm_model_pretrained: false, timm_pool: avg,
                    timm_proj: linear, image_size: 32}}
      text_cfg: {{context_length: 24, vocab_size: 49408, width: 32, heads: 2, layers: 1}}
    image_size: 32
    batch: 32
    steps: 20
    threads: 1
curate:
  rules:
    - {{reason: corrupt, drop: image.decode_error IS NOT NULL}}
    - {{reason: blank, score: image.uniformity, max: 0.967}}
  dedup:
    near: [{{vectors: descriptor/pixels, threshold: 0.97, floor: 0.95}}]
index: {{kind: auto}}
"""


def picture(rng: np.random.Generator) -> bytes:
    wide, high = rng.integers(64, 160, 2).tolist()
    smooth = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8))
    pixels = np.asarray(smooth.resize((wide, high), Image.Resampling.BICUBIC), np.int16)
    noisy = (pixels + rng.integers(-6, 6, pixels.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=88)
    return file.getvalue()


def write_tar(task: tuple[str, int, int]) -> None:
    folder, number, rows = task
    rng = np.random.default_rng([number, rows])
    with Path(folder, f"{number:06d}.tar").open("wb") as file:
        tar = TarWriter(file)
        for row in range(rows):
            caption = " ".join(rng.choice(WORDS, 8).tolist()).encode()
            tar.add_all([(f"{row:06d}.jpg", picture(rng)), (f"{row:06d}.txt", caption)])
        tar.close()


def make_pool(folder: Path, rows: int, in_a_tar: int, first: int = 0) -> str:
    folder.mkdir()
    tasks = [(str(folder), first + at, min(in_a_tar, rows - at * in_a_tar))
             for at in range(-(-rows // in_a_tar))]  # fmt: skip
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(write_tar, tasks))
    return str(folder)


def run(folder: Path, rows: int, in_a_tar: int, trusted: str) -> str:
    """A run over a pool of so many rows: the log of it."""
    from flows.main import Options, execute, prepare
    from infra.progress import PlainDisplay

    name = f"{rows}-{in_a_tar}"
    pool, log = make_pool(folder / f"pool-{name}", rows, in_a_tar), folder / f"{name}.jsonl"
    recipe = folder / f"{name}.yaml"
    recipe.write_text(RECIPE.format(pool=pool, trusted=trusted))
    chosen = ("run.executor=local", f"run.workers={WORKERS}", f"run.events={log}")
    store = folder / f"store-{name}"
    prepared = prepare(Options(str(recipe), chosen, str(store)))
    execute(prepared, "index", PlainDisplay(), lambda step, session: step.run(session))
    shutil.rmtree(pool)
    shutil.rmtree(store)
    return str(log)


def compared(foretold: Forecast, log: str) -> dict[str, Any]:
    measured = read_log(log)
    stages = {
        stage.name: {
            "foretold": round(stage.seconds, 1),
            "measured": round(measured.stages[stage.name].seconds, 1),
        }
        for stage in foretold.stages
    }
    pairs = {
        "seconds": (foretold.seconds, measured.seconds),
        "megabytes_of_a_worker": (
            foretold.memory / 1e6,
            max(stage.memory for stage in measured.stages.values()) / 1e6,
        ),
        "megabytes_written": (
            foretold.bytes / 1e6,
            sum(stage.bytes for stage in measured.stages.values()) / 1e6,
        ),
        "cost": (foretold.cost, measured.seconds / 3600),
    }
    totals = {
        name: {"foretold": round(a, 2), "measured": round(b, 2), "ratio": round(a / b, 3)}
        for name, (a, b) in pairs.items()
    }
    return {"totals": totals, "stages": stages}


def laion(laws: Laws) -> dict[str, Any]:
    """5.85 billion pairs on the cluster of the example: its workers as fast as this machine's."""
    found = forecast(laws, load_cluster(str(CLUSTER)), 5.85e9)
    return {
        "days": round(found.seconds / 86400, 2),
        "cost": round(found.cost),
        "gigabytes_of_a_worker": round(found.memory / 1e9, 1),
        "gigabytes_of_the_driver": round(found.driver_memory / 1e9, 2),
        "terabytes_written": round(found.bytes / 1e12, 1),
        "hours": {stage.name: round(stage.seconds / 3600, 2) for stage in found.stages},
        "hours_between_stages": round(found.other / 3600, 2),
        "notes": found.notes,
    }


def main(rows: int, times: int, logs: Path | None) -> None:
    from flows import environment

    environment.prepare()
    with tempfile.TemporaryDirectory(prefix="sluice-bench-", dir=os.environ.get("TMPDIR")) as made:
        folder = Path(made)
        trusted = make_pool(folder / "trusted", 200, IN_A_TAR, first=10**6)
        *shapes, more = [(int(rows * part), in_a_tar) for part, in_a_tar in (*SHAPES, LARGER)]
        warm = folder / "warm"  # the first run of a machine compiles loops and fills caches
        warm.mkdir()
        run(warm, *shapes[0], trusted)
        small: Sequence[str] = [run(folder, *shape, trusted) for shape in shapes]
        larger = run(folder, *more, trusted)
        machine = this_machine(WORKERS, price=1.0)
        laws = fit([read_log(log) for log in small])
        foretold = forecast(laws, machine, rows * times, IN_A_TAR)
        print(json.dumps({"foretold_seconds": foretold.seconds}), flush=True)
        begin, load = time.monotonic(), os.getloadavg()[0]
        log = run(folder, rows * times, IN_A_TAR, trusted)
        figures = {
            "calibrated": shapes,
            "rows": rows * times,
            "workers": WORKERS,
            "load_before": round(load, 1),
            "seconds_with_making": round(time.monotonic() - begin),
        }
        figures |= compared(foretold, log)
        rows_larger, in_larger = more
        fewer = compared(forecast(laws, machine, rows_larger, in_larger), larger)
        figures["larger shards"] = {"rows": rows_larger, "in_a_tar": in_larger, **fewer}
        figures["laion-5b"] = laion(fit([read_log(log) for log in (*small, larger)]))
        if logs:
            logs.mkdir(exist_ok=True)
            for each in (*small, larger, log):
                shutil.copy(each, logs)
        if (rows, times) == (ROWS, TIMES):
            keep("simulator", figures, "torch", "pyarrow")
        else:
            print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("--rows", type=int, default=ROWS, help="of the larger small pools")
    ask.add_argument("--times", type=int, default=TIMES, help="how much larger the large pool is")
    ask.add_argument("--logs", type=Path, help="a folder to leave the logs of the runs in")
    given = ask.parse_args()
    main(given.rows, given.times, given.logs)
