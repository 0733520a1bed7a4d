"""Takedown of 1,000 uids among 10 million rows: seconds, CPU seconds, what is written anew.

    python tests/bench/takedown.py            # a few minutes, some 25 GB of disk for a while

A version of 1,000 shards of 10,000 samples with images of 100 bytes, whose tars are 50 files under
1,000 names (the bytes of a tar do not matter, that they must be copied does). First the uids lie in
20 shards, then anywhere, which concerns 630: there the bytes of the tars are the limit.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from infra import artifacts
from infra.artifacts import Part, Spec
from infra.catalogue.versions import versions
from infra.dataset import REPEATING, ROWS, part_name, publish, sample_key, write_table
from infra.filesystem import FilePart, write_whole
from infra.progress import PlainDisplay, SilentDisplay
from infra.shards import TarWriter
from tests.bench.record import keep

IMAGE, TARS = 100, 50
SAID = "a picture of something, as a caption of a page in the web tells it, number "


def hexes(seed: Sequence[int], count: int, size: int) -> list[str]:
    text = np.random.default_rng(seed).bytes(count * size).hex()
    return [text[at : at + 2 * size] for at in range(0, len(text), 2 * size)]


def uids_of(shard: int, rows: int) -> list[str]:
    return hexes([1, shard], rows, 16)


def write_tar(folder: str, number: int, rows: int) -> tuple[FilePart, list[int]]:
    path, offsets = f"made/{number}.tar", list[int]()
    images = np.random.default_rng(number).bytes(rows * IMAGE)
    with write_whole(folder, path) as file:
        tar = TarWriter(file)  # type: ignore[arg-type]
        for row in range(rows):
            key, image = sample_key(0, row), images[row * IMAGE : (row + 1) * IMAGE]
            named = [(f"{key}.jpg", image), (f"{key}.txt", SAID.encode()), (f"{key}.json", b"{}")]
            offsets.append(tar.add_all(named))
        tar.close()
    return file.part(path), offsets


def write_rows(task: tuple[str, int, int, FilePart, list[int]]) -> None:
    """One shard: its rows, and its tar as another name of one that is there."""
    url, shard, rows, tar, offsets = task
    same: dict[str, Any] = {"shard": shard, "status": "ok", "bytes": IMAGE, "format": "jpg",
                            "width": 8, "height": 8, "tar": 0}  # fmt: skip
    columns = {name: [same.get(name)] * rows for name in ROWS.names}
    numbers = range(shard * rows, (shard + 1) * rows)
    columns |= {
        "uid": uids_of(shard, rows),
        "row": range(rows),
        "key": [sample_key(0, row) for row in range(rows)],
        "source": [f"part-{shard:05d}.parquet#{row}" for row in range(rows)],
        "url": [f"https://images{n % 997}.example.org/{n:x}.jpg" for n in numbers],
        "caption": [f"{SAID}{number}" for number in numbers],
        "sha256": hexes([2, shard], rows, 32),
        "offset": offsets,
        "meta": ['{"similarity":0.3}'] * rows,
    }
    file = write_table(url, f"rows/{part_name(shard)}.parquet",
                       pa.table(columns, schema=ROWS), REPEATING)  # fmt: skip
    target = Path(url, "shards", f"{part_name(shard)}.tar")
    target.parent.mkdir(exist_ok=True)
    os.link(Path(url, tar.path), target)
    whole = FilePart(f"shards/{part_name(shard)}.tar", tar.bytes, tar.sha256)
    part = Part(part_name(shard), (file, whole), rows, rows)
    artifacts.record_part(url, part, 0.0, 0.0)


def make(store: str, shards: int, rows: int) -> None:
    spec = Spec("dataset", "bench", {"name": "pool", "shards": shards, "rows": rows})
    url = f"{store}/pool/{spec.digest}"
    tars = [write_tar(url, number, rows) for number in range(min(TARS, shards))]
    tasks = [(url, shard, rows, *tars[shard % len(tars)]) for shard in range(shards)]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(write_rows, tasks, chunksize=8))
    shutil.rmtree(Path(url, "made"))
    publish(store, "pool", artifacts.commit(url, spec))


def cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def take(store: str, uids: Sequence[str], folder: Path) -> dict[str, Any]:
    """One takedown: how long, how much was written, how many shards."""
    from flows.recipe import load_recipe  # here: worker processes import this file, too
    from flows.takedown import main

    asked = folder / "uids.txt"
    asked.write_text("\n".join(uids))
    where = load_recipe(None, ("run.executor=local", "run.workers=2")).run
    told: list[tuple[float, str]] = []
    start, used = time.monotonic(), cpu()
    display = PlainDisplay(lambda text: told.append((time.monotonic() - start, text)))
    main.run(store, main.TakedownOptions(uids=str(asked)), where, display)
    os.sync()
    seconds = time.monotonic() - start
    (new,) = versions(store)
    files = {file.path: file for part in new.parts for file in part.files}
    written = [file for path, file in files.items() if path.startswith("shards/")]
    written += [files[f"rows/{file.path[7:-4]}.parquet"] for file in written]
    assert new.totals["dropped"] == {"taken_down": new.totals["rows"] - new.totals["kept"]}
    return {
        "uids": len(uids),
        "shards": len(new.parts),
        "shards_rewritten": len(written) // 2,
        "bytes_written": sum(file.bytes for file in written),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu() - used, 1),
        "load": round(os.getloadavg()[0], 1),  # 2 and more: others had work on these cores, too
        "timeline": [f"{at:.1f} s: {text}" for at, text in told],
    }


def bench(shards: int, rows: int, folder: Path) -> dict[str, Any]:
    from flows.recipe import load_recipe
    from flows.takedown.verify import verify

    store = str(folder / "store")
    start = time.monotonic()
    make(store, shards, rows)
    figures: dict[str, Any] = {"rows": shards * rows, "making": round(time.monotonic() - start)}
    rng = np.random.default_rng(0)
    few = rng.choice(shards, min(20, shards // 2), replace=False).tolist()
    together = [uid for shard in few for uid in uids_of(shard, rows)[:50]]
    figures["in 20 shards"] = take(store, together, folder)
    print(json.dumps(figures, indent=1), flush=True)
    rest = [shard for shard in range(shards) if shard not in few]
    places = zip(rng.choice(rest, 1000), rng.integers(50, rows, 1000), strict=True)
    anywhere = [uids_of(int(shard), rows)[int(row)] for shard, row in places]
    figures["anywhere"] = take(store, anywhere, folder)
    print(json.dumps(figures["anywhere"], indent=1), flush=True)
    where = load_recipe(None, ("run.executor=local", "run.workers=2")).run
    start = time.monotonic()
    _, clean = verify(store, "latest", False, where, SilentDisplay())
    figures["verify"] = {"seconds": round(time.monotonic() - start, 1), "nothing remains": clean}
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000, help="of a shard")
    parser.add_argument("--keep", action="store_true", help="write results/takedown.json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluice-bench-", dir=os.environ.get("TMPDIR")) as made:
        os.environ["XDG_CONFIG_HOME"] = made
        found = bench(chosen.shards, chosen.rows, Path(made))
    if chosen.keep:
        keep("takedown", found, "pyarrow", "cryptography")
    else:
        print(json.dumps(found, indent=1))
