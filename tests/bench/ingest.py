"""URL tables to shards, against img2dataset in an environment of its own, from a real nginx.

Both fetch the same JPEGs of 256 pixels from loopback with two processes and 32 connections each.
What start-up costs stays out of the marginal figures: they are the difference between 10,000 and
2,000 URLs. Peak memory is that of our largest worker, over a table of 50 million rows of which
the first shards are fetched. Linux only; needs nginx, and the peer's Python:
Run: python tests/bench/ingest.py --peer PATH/bin/python
"""

import argparse
import contextlib
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from record import keep

from curation.fetch.settings import FetchSettings
from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.intake import Intake
from curation.resize_settings import ResizeSettings
from curation.settings import SourceSettings
from infra.progress import SilentDisplay
from infra.runner import LocalRunner
from infra.stage import Item, run_stage

PORT, CONNECTIONS, WORKERS = 8123, 32, 2
INTERVAL = 0.5  # seconds between two looks at the memory
SUBREAPER = 36  # of prctl
MANY, FEW, RUNS = 10_000, 2_000, 3
SIDE, ROWS_PER_SHARD = 256, 1_000
HUGE, HUGE_SHARDS = 50_000_000, 4  # rows of the table whose first shards are fetched
MODES = {
    "store": ["disable_all_reencoding=True"],
    "crop": ["resize_mode='center_crop'", f"image_size={SIDE}", "encode_quality=95"],
}
PEER = """
import img2dataset, sys
if __name__ == "__main__":
    img2dataset.download(url_list=sys.argv[1], input_format="parquet", url_col="url",
        caption_col="caption", output_folder=sys.argv[2], output_format="webdataset",
        processes_count={workers}, thread_count={connections},
        number_sample_per_shard={rows}, timeout=20, {mode})
"""


def make_images(folder: Path) -> None:
    """Random crops of the photographs that come with scikit-learn and scikit-image."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photos = [*load_sample_images().images, data.astronaut(), data.coffee(), data.chelsea()]
    for index in range(MANY):
        photo = photos[rng.integers(len(photos))]
        side = int(min(photo.shape[:2]) * rng.uniform(0.35, 0.95))
        top, left = (rng.integers(size - side + 1) for size in photo.shape[:2])
        crop = Image.fromarray(photo[top : top + side, left : left + side]).resize((SIDE, SIDE))
        noise = rng.normal(0, 4, (SIDE, SIDE, 1))
        pixels = np.clip(np.asarray(crop) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:06d}.jpg", quality=92)


def make_table(path: Path, rows: int) -> None:
    with pq.ParquetWriter(path, pa.schema([("url", pa.string()), ("caption", pa.string())])) as out:
        for start in range(0, rows, 1_000_000):
            number = pa.array(np.arange(start, min(start + 1_000_000, rows)))
            name = pc.utf8_lpad(pc.cast(pc.subtract(number, pc.multiply(
                pc.divide(number, MANY), MANY)), pa.string()), 6, "0")  # fmt: skip
            text = pc.cast(number, pa.string())
            urls = pc.binary_join_element_wise(
                f"http://127.0.0.1:{PORT}/", name, ".jpg?row=", text, ""
            )
            captions = pc.binary_join_element_wise("picture number", text, " ")
            out.write_table(pa.table({"url": urls, "caption": captions}))


@contextlib.contextmanager
def nginx(root: Path, folder: Path) -> Iterator[None]:
    temporary = " ".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error;"
        "events { worker_connections 4096; } http { access_log off; sendfile on; tcp_nopush on;"
        f"keepalive_requests 1000000; types {{ image/jpeg jpg; }} {temporary} server {{"
        f"listen 127.0.0.1:{PORT} backlog=4096; root {root}; }} }}"
    )
    process = subprocess.Popen(["nginx", "-c", f"{folder}/nginx.conf", "-p", str(folder)])
    time.sleep(1)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def timed(command: list[str], watched: bool = False) -> dict[str, float]:
    """Wall-clock and CPU seconds of a command with all its processes; if watched, their memory.

    Processes whose parent is gone become ours, so that none is left out of the CPU time.
    """
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    others = {child.pid for child in psutil.Process().children()}
    before, start, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), 0
    with tempfile.TemporaryFile() as noise:
        process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=noise)
        while watched and process.poll() is None:
            peak = max(peak, largest(process))
            time.sleep(INTERVAL)
        code, seconds = process.wait(), time.monotonic() - start
        for orphan in psutil.Process().children():
            if orphan.pid not in others:
                orphan.wait()
        noise.seek(0)
        assert code == 0, noise.read().decode()[-2000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu": cpu, "peak": peak}


def largest(process: psutil.Process) -> int:
    """Proportional set size of the largest child, bytes, with what that child started."""
    sizes = [0]
    with contextlib.suppress(psutil.Error):
        for child in process.children():
            with contextlib.suppress(psutil.Error):
                members = [child, *child.children(recursive=True)]
                sizes.append(sum(member.memory_full_info().pss for member in members))
    return max(sizes)


def ours(table: str, store: str, mode: str, shards: int) -> None:
    """What the workers of `ingest` do, on the local executor; 0 shards: all of them."""
    sources = [SourceSettings.model_validate({"urls": table})]
    fetch = {
        "allow_networks": ["127.0.0.0/8"], "per_host": CONNECTIONS, "connections": CONNECTIONS,
    }  # fmt: skip
    crop = {"mode": "center_crop", "size": SIDE, "quality": 95, "skip_reencode": False}
    resize = ResizeSettings.model_validate(crop) if mode == "crop" else None
    intake = Intake(FetchSettings.model_validate(fetch), resize=resize)
    rows = ROWS_PER_SHARD
    draft = ingest_draft(store, "pool", sources, "bench", rows, intake)
    items, work = ingest_items(sources, rows), IngestWork(draft.url, intake)
    with LocalRunner(WORKERS) as runner:
        if shards:
            kept = sum(count for _, count in runner.map(partial(part, work), items[:shards]))
            assert kept == shards * rows
        else:
            stage = run_stage("ingest", {"": draft}, items, work, runner, SilentDisplay())
            assert stage[""].totals["kept"] == pq.read_metadata(table).num_rows


def part(work: IngestWork, item: Item) -> int:
    """The samples of one shard."""
    return work(item.value, [""])[""].kept


def peer(python: str, table: str, out: str, mode: str) -> list[str]:
    script = PEER.format(
        workers=WORKERS, connections=CONNECTIONS, rows=ROWS_PER_SHARD, mode=", ".join(MODES[mode])
    )
    path = Path(out).with_suffix(".py")
    path.write_text(script)
    return [python, str(path), table, out]


def marginal(few: list[dict[str, float]], many: list[dict[str, float]]) -> dict[str, float]:
    """CPU seconds for a thousand images, and images a second, beyond start-up; medians."""
    middle = {
        name: [statistics.median(run[name] for run in runs) for runs in (few, many)]
        for name in ("cpu", "seconds")
    }
    thousands = (MANY - FEW) / 1000
    cpu = (middle["cpu"][1] - middle["cpu"][0]) / thousands
    seconds = (middle["seconds"][1] - middle["seconds"][0]) / thousands
    return {
        "cpu_seconds_per_1000": round(cpu, 3),
        "images_per_second": round(1000 / seconds, 1),
        "start_up_cpu_seconds": round(middle["cpu"][0] - cpu * FEW / 1000, 2),
        "start_up_seconds": round(middle["seconds"][0] - seconds * FEW / 1000, 2),
    }


def compare(folder: Path, python: str, runs: int) -> dict[str, Any]:
    """Ours and the peer's figures by mode, run in turn, and our figures over theirs."""
    tables = {count: str(folder / f"{count}.parquet") for count in (FEW, MANY)}
    for count, table in tables.items():
        make_table(Path(table), count)
    found: dict[str, Any] = {}
    for mode in MODES:
        timings: dict[str, dict[int, list[dict[str, float]]]] = {
            name: {FEW: [], MANY: []} for name in ("ours", "img2dataset")
        }
        for run in range(runs):
            for count, table in tables.items():
                out = str(folder / f"out-{mode}-{count}-{run}")
                mine = [sys.executable, __file__, "--ours", table, out, mode, "0"]
                timings["ours"][count].append(timed(mine))
                shutil.rmtree(out)
                timings["img2dataset"][count].append(timed(peer(python, table, out, mode)))
                shutil.rmtree(out)
        figures = {name: marginal(by[FEW], by[MANY]) for name, by in timings.items()}
        ratios = {
            name: round(figures["ours"][name] / figures["img2dataset"][name], 3)
            for name in ("cpu_seconds_per_1000", "images_per_second")
        }
        found[mode] = {**figures, "ratio": ratios}
        print(mode, json.dumps(found[mode]), flush=True)
    return found


def huge(folder: Path) -> dict[str, float]:
    """The memory of our largest worker on the first shards of a table of 50 million rows."""
    table = folder / "huge.parquet"
    make_table(table, HUGE)
    run = timed([sys.executable, __file__, "--ours", str(table), str(folder / "huge"), "crop",
                 str(HUGE_SHARDS)], watched=True)  # fmt: skip
    return {
        "rows": HUGE,
        "shards_fetched": HUGE_SHARDS,
        "seconds": round(run["seconds"], 1),
        "peak_mb_of_a_worker": round(run["peak"] / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="Python of an environment with img2dataset 1.47")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--ours", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        table, store, mode, shards = options.ours
        return ours(table, store, mode, int(shards))
    if not options.peer or not shutil.which("nginx"):
        print("skipped: needs --peer PYTHON with img2dataset 1.47, and nginx")
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        images = folder / "images"
        images.mkdir()
        make_images(images)
        with nginx(images, folder):
            memory = huge(folder)
            print(json.dumps(memory), flush=True)
            figures = compare(folder, options.peer, options.runs)
    version = subprocess.run(
        [options.peer, "-c", "import importlib.metadata as m; print(m.version('img2dataset'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    report = {
        "what": "URL tables to shards from loopback nginx; marginal cost of 8,000 images",
        "sizes": {"urls": [FEW, MANY], "side": SIDE, "workers": WORKERS,
                  "connections": CONNECTIONS, "runs": options.runs},
        "peer": f"img2dataset {version}",
        "modes": figures,
        "memory": memory,
    }  # fmt: skip
    keep("ingest", report, "pycurl", "simplejpeg", "pyarrow", "pillow")


if __name__ == "__main__":
    main()
