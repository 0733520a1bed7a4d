"""Memory of reading, decoding and cropping over ten epochs: is it flat?

Tars of JPEGs made on the spot, a hundredth of them damaged, stream through what a training run
reads them with: shuffle windows, decoding threads, the cache of decoded samples, and the views of
Barlow Twins, a batch after the other; no step is taken. After each epoch the anonymous memory
(RssAnon: what no file stands behind) of all processes is noted. The first epoch fills the cache and
the window; growth is told from the second on, by a line through the epochs.
Run: python tests/bench/loader_memory.py [--samples 2000]
"""

import argparse
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from index import anonymous
from PIL import Image
from record import keep
from train import ingest

from infra.shards import TarWriter

EPOCHS, SHARDS, SIDE = 10, 8, 96
DAMAGED = 0.01
SETTINGS: dict[str, Any] = {
    "objective": "barlow", "model": "test_resnet", "image_size": 32, "batch": 100,
    "shuffle": 1000, "threads": 1, "device": "cpu",
}  # fmt: skip
# Name: processes that share each batch, and MiB of decoded samples that each keeps.
CASES = {
    "one process": (1, 4),
    "one process, no cache": (1, 0),
    "two processes": (2, 4),
}


def write_tar(path: Path, count: int, seed: int) -> None:
    """JPEGs of smooth noise, some of them cut off."""
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        tar = TarWriter(file)
        for number in range(count):
            coarse = rng.integers(0, 256, (SIDE // 6, SIDE // 6, 3), np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(coarse).resize((SIDE, SIDE)).save(buffer, "JPEG", quality=90)
            data = buffer.getvalue()
            cut = len(data) // 2 if rng.random() < DAMAGED else len(data)
            tar.add(f"{number:09d}.jpg", data[:cut])
            tar.add(f"{number:09d}.txt", f"noise {seed} {number}".encode())
        tar.close()


def read(url: str, samples: int, cache: int, rank: int, count: int, meeting: str) -> list[int]:
    """Anonymous bytes of this process before the first epoch and after each; one of `count`."""
    import torch
    from torch import distributed

    from pretrain import objectives
    from pretrain.data import Ahead, Source, Stream
    from pretrain.loop import BATCHES_AHEAD, deterministic
    from pretrain.ranks import joined
    from pretrain.settings import TrainSettings

    settings = TrainSettings.model_validate({**SETTINGS, "cache_mib": cache})
    if count > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=count
        )
    stream = Stream(
        [Source(url)],
        batch=settings.batch,
        canvas=settings.canvas_size,
        shuffle=settings.shuffle,
        seed=0,
        cache_mib=settings.cache_mib,
        threads=settings.threads,
        ranks=joined(),
    )
    objective, steps = objectives.build(settings), samples // settings.batch
    found = [anonymous(os.getpid())]
    # No more than are used: for a further one a process would wait for others that have ended.
    endless = stream.batches(stream.start())
    batches = Ahead(itertools.islice(endless, EPOCHS * steps), BATCHES_AHEAD)
    with deterministic(settings.threads), torch.no_grad():
        for _ in range(EPOCHS):
            for _ in range(steps):
                objective.views(batches.next(), torch.device("cpu"))
            found.append(anonymous(os.getpid()))
    batches.close()
    if count > 1:
        distributed.destroy_process_group()
    return found


def measure(url: str, samples: int, count: int, cache: int, folder: Path) -> dict[str, Any]:
    """What `count` processes take together after each epoch, and by how much it grows."""
    meeting = str(folder / f"meeting-{count}")
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--child",
             *map(str, (url, samples, cache, rank, count, meeting))],
            stdout=subprocess.PIPE, text=True, env=environment,
        )
        for rank in range(count)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a process that reads has failed")
    each = np.asarray([json.loads(text.strip().splitlines()[-1]) for text in said])
    total = each.sum(0) / 1e6
    later = total[2:]  # after the second epoch
    slope = float(np.polyfit(np.arange(len(later)), later, 1)[0])
    return {
        "megabytes_after_epochs": [round(float(value), 1) for value in total],
        "megabytes_more_an_epoch": round(slope, 3),
        "share_more_an_epoch": round(slope / float(later.mean()), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000, help="of the source; an epoch")
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        url, samples, cache, rank, count, meeting = given.child
        print(json.dumps(read(url, int(samples), int(cache), int(rank), int(count), meeting)))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tars = [folder / f"{shard:05d}.tar" for shard in range(SHARDS)]
        for shard, path in enumerate(tars):
            write_tar(path, given.samples // SHARDS, shard)
        url = ingest(folder, tars)
        for case, (count, cache) in CASES.items():
            found[case] = measure(url, given.samples, count, cache, folder)
            print(case, json.dumps(found[case]), file=sys.stderr, flush=True)
    what = f"anonymous memory of all processes that read {given.samples} samples {EPOCHS} times"
    keep("loader_memory", {"what": what, "settings": SETTINGS, "cases": found}, "torch", "pillow")


if __name__ == "__main__":
    main()
