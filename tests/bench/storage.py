"""What a store on S3 costs: the memory of a long upload, an epoch with and without the cache.

The server is moto on loopback, the slower side of every transfer, so that the seconds only compare.
Writes results/storage.json. Run: python tests/bench/storage.py
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from record import keep

from infra import cache
from infra.artifacts import Artifact, Part, Spec, commit, record_part
from infra.dataset import ROWS, Dataset, make_uid, write_shard
from tests.faults import Proxy
from tests.s3 import S3, environment

SIZES = (64, 512)  # MiB of an upload
SHARDS, IMAGES, SIDE = 8, 200, 20_000  # images of so many bytes each
UPLOAD = """
import json, resource, sys, time
from infra.filesystem import write_bytes, write_whole
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
write_bytes(sys.argv[1], "first", b"x")
data, before, start = bytes(2**20), peak(), time.monotonic()
with write_whole(sys.argv[1], "long.tar") as file:
    for _ in range(int(sys.argv[2])):
        file.write(data)
print(json.dumps({"more_mib": round(peak() - before), "seconds": time.monotonic() - start}))
"""


def upload(url: str, size: int) -> dict[str, Any]:
    command = [sys.executable, "-c", UPLOAD, url, str(size)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def version(url: str) -> Artifact:
    """A dataset version of random bytes that pass for images."""
    random = np.random.default_rng(0)
    for shard in range(SHARDS):
        images = [random.bytes(SIDE) for _ in range(IMAGES)]
        rows = [
            dict.fromkeys(ROWS.names)
            | {"shard": shard, "row": row, "status": "ok", "format": "jpg", "caption": "a"}
            | {"uid": make_uid(None, None, image)}
            for row, image in enumerate(images)
        ]
        files = write_shard(url, shard, pa.Table.from_pylist(rows, ROWS), images)
        part = Part(f"{shard:05d}", tuple(files), rows=IMAGES, kept=IMAGES)
        record_part(url, part, 0.0, 0.0)
    return commit(url, Spec("dataset", "bench.storage"))


def epoch(dataset: Dataset, proxy: Proxy) -> dict[str, Any]:
    start = time.monotonic()
    with proxy.spoilt():
        count = sum(1 for shard in dataset.shards for _ in dataset.samples(shard))
        assert count == SHARDS * IMAGES
        return {
            "seconds": round(time.monotonic() - start, 2),
            "requests": len(proxy.seen),
            "mb_fetched": round(sum(seen.answered for seen in proxy.seen) / 1e6, 3),
        }


def main() -> None:
    figures: dict[str, Any] = {}
    with S3() as s3, tempfile.TemporaryDirectory() as folder:
        figures["upload_mib"] = {size: upload(s3.url("upload"), size) for size in SIZES}
        with Proxy(s3.endpoint) as proxy, environment(AWS_ENDPOINT_URL=proxy.endpoint):
            dataset = Dataset(version(s3.url("pool", "version")))
            figures["epochs"] = {"without": [epoch(dataset, proxy) for _ in range(2)]}
            os.environ[cache.VARIABLE] = f"{Path(folder, 'cache')}:1GB"
            figures["epochs"]["with"] = [epoch(dataset, proxy) for _ in range(3)]
    keep("storage", figures, "s3fs", "aiobotocore", "moto")


if __name__ == "__main__":
    main()
