"""The simulator against a run 100 times as large as what it was calibrated with.

The recipe curates a pool of tars with pictures made on the spot (smooth colours with noise, 64 to
160 pixels, 100 in a tar) and indexes it: ingest, scores, a small CLIP, embeddings, duplicates,
verdicts, version, index. Two small runs are its calibration; then the large one is foretold, run,
and compared: time, memory of the largest worker, bytes. Promised: within 20 %.
Run: python tests/bench/simulator.py [ROWS]     ROWS: of the larger small pool, 1,000
"""

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

TIMES, PART = 100, 4  # how much larger the large run is; how much smaller the smaller calibration
IN_A_TAR = 100
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


def make_pool(folder: Path, rows: int, first: int = 0) -> str:
    folder.mkdir()
    tasks = [(str(folder), first + at, min(IN_A_TAR, rows - at * IN_A_TAR))
             for at in range(-(-rows // IN_A_TAR))]  # fmt: skip
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(write_tar, tasks))
    return str(folder)


def run(folder: Path, rows: int, trusted: str) -> str:
    """A run over a pool of so many rows: the log of it."""
    from flows.main import Options, execute, prepare
    from infra.progress import PlainDisplay

    pool, log = make_pool(folder / f"pool-{rows}", rows), folder / f"{rows}.jsonl"
    recipe = folder / f"{rows}.yaml"
    recipe.write_text(RECIPE.format(pool=pool, trusted=trusted))
    chosen = ("run.executor=local", f"run.workers={WORKERS}", f"run.events={log}")
    store = folder / f"store-{rows}"
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
    found = forecast(laws, load_cluster(str(CLUSTER)), 5.85e9, rows_a_shard=10_000)
    return {
        "days": round(found.seconds / 86400, 2),
        "cost": round(found.cost),
        "gigabytes_of_a_worker": round(found.memory / 1e9, 1),
        "gigabytes_of_the_driver": round(found.driver_memory / 1e9, 2),
        "terabytes_written": round(found.bytes / 1e12, 1),
        "hours": {stage.name: round(stage.seconds / 3600, 2) for stage in found.stages},
        "notes": found.notes,
    }


def main(rows: int) -> None:
    from flows import environment

    environment.prepare()
    with tempfile.TemporaryDirectory(prefix="sluice-bench-", dir=os.environ.get("TMPDIR")) as made:
        folder = Path(made)
        trusted = make_pool(folder / "trusted", 200, first=10**6)
        small: Sequence[str] = [run(folder, size, trusted) for size in (rows // PART, rows)]
        machine = this_machine(WORKERS, price=1.0)
        laws = fit([read_log(log) for log in small])
        foretold = forecast(laws, machine, rows * TIMES)
        print(json.dumps({"foretold_seconds": foretold.seconds}), flush=True)
        begin, load = time.monotonic(), os.getloadavg()[0]
        log = run(folder, rows * TIMES, trusted)
        figures = {
            "calibrated": [rows // PART, rows],
            "rows": rows * TIMES,
            "workers": WORKERS,
            "load_before": round(load, 1),
            "seconds_with_making": round(time.monotonic() - begin),
        }
        figures |= compared(foretold, log) | {"laion-5b": laion(laws)}
        keep("simulator", figures, "torch", "pyarrow")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
