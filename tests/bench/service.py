"""The service under load: a server process and a client process over loopback, on one machine.

A store is made on the spot: vectors around centres, each with near ones, and rows with captions.
Run: python tests/bench/service.py [ROWS]
"""

import asyncio
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from record import keep

from indexes.building import build_index, figures_of
from indexes.settings import IndexSettings
from infra import artifacts, dataset, filesystem
from infra.artifacts import Part, Spec
from infra.dataset import REPEATING, ROWS, open_dataset, part_name, write_table
from infra.progress import SilentDisplay
from infra.runner import InlineRunner

SHARD, DIMENSION, LATENT, CENTRES = 100_000, 512, 32, 2000
ROWS_KEPT = 1_000_000  # another number is printed and not kept
HITS, BODIES = 10, 500
PACED, SECONDS = 300, 20  # requests a second asked for, and for how long
CONNECTIONS = (1, 16, 64)  # of clients that ask again as soon as they are answered
CROWD, EACH = 1000, 5  # clients at once, and requests of each
ROOT = Path(__file__).parents[2]


def vectors(shard: int, count: int) -> np.ndarray:
    """Unit float16 [count, DIMENSION]: clusters on a curved surface of LATENT dimensions."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CENTRES, LATENT))
    plane = rng.normal(size=(LATENT, DIMENSION)).astype(np.float32)
    rng = np.random.default_rng([1, shard])
    points = centres[rng.integers(0, CENTRES, count)] + 0.4 * rng.normal(size=(count, LATENT))
    found = np.tanh(points.astype(np.float32) @ plane / 4)
    found += 0.05 * rng.normal(size=found.shape).astype(np.float32)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def rows(shard: int, count: int) -> pa.Table:
    rng = np.random.default_rng([2, shard])
    words = rng.integers(0, 5000, (count, 8)).astype(str).tolist()
    columns: dict[str, Any] = {
        "uid": [value.hex() for value in np.frombuffer(rng.bytes(16 * count), "V16").tolist()],
        "shard": np.full(count, shard, np.int32),
        "row": np.arange(count, dtype=np.int32),
        "status": ["ok"] * count,
        "url": [f"https://example.org/{shard}/{row}.jpg" for row in range(count)],
        "caption": [" word".join(row) for row in words],
        "format": ["jpg"] * count,
        "width": rng.integers(64, 2048, count, dtype=np.int32),
        "height": rng.integers(64, 2048, count, dtype=np.int32),
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in ROWS
    ]
    return pa.Table.from_arrays(arrays, schema=ROWS)


def make_store(store: str, count: int) -> None:
    """A version `bench` of `count` rows with vectors, without pictures."""
    spec = Spec("dataset", "bench", {"rows": count})
    url = f"{store}/bench/{spec.digest}"
    scores = Spec("scores", "clip", {"model": None}, (spec.digest,))
    folder = f"{url}/scores/clip-{scores.digest}"
    for shard, start in enumerate(range(0, count, SHARD)):
        size, name = min(SHARD, count - start), part_name(shard)
        file = write_table(url, f"rows/{name}.parquet", rows(shard, size), REPEATING)
        artifacts.record_part(url, Part(name, (file,), size, size), 0, 0)
        found, buffer = vectors(shard, size), io.BytesIO()
        np.save(buffer, found)
        similarity = pa.table({"similarity": found[:, 0].astype(np.float32)})
        files = (
            filesystem.write_bytes(folder, f"image/{name}.npy", buffer.getvalue()),
            write_table(folder, f"columns/{name}.parquet", similarity),
        )
        artifacts.record_part(folder, Part(name, files, size, size), 0, 0)
    artifacts.commit(folder, scores)
    dataset.publish(store, "bench", artifacts.commit(url, spec))


def build(store: str) -> dict[str, Any]:
    """Build the index; its figures."""
    version = open_dataset(store, "bench")
    (scores,) = Path(version.url, "scores").iterdir()
    chosen = {"embedding": f"{scores.name}/image", "publish_below_target": True}
    settings = IndexSettings.model_validate(chosen)
    with InlineRunner() as runner:
        return dict(figures_of(build_index(version, settings, runner, SilentDisplay())))


@contextmanager
def running(store: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The service as users start it, at a free port."""
    command = [sys.executable, "-m", "indexes", "serve", "bench", "--store", store, "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1], process
    finally:
        process.terminate()
        process.wait()


class Client:
    """One connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, request: bytes) -> tuple[int, float]:
        """Status and seconds of a request."""
        start = time.perf_counter()
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        (length,) = [
            int(line[15:])
            for line in head.split(b"\r\n")
            if line[:15].lower() == b"content-length:"
        ]
        await self.reader.readexactly(length)
        return int(head[9:12]), time.perf_counter() - start


@asynccontextmanager
async def connected(url: str, count: int) -> AsyncIterator[list[Client]]:
    place = urlsplit(url)
    pairs = [await asyncio.open_connection(place.hostname, place.port) for _ in range(count)]
    clients = [Client(*pair) for pair in pairs]
    yield clients
    for client in clients:
        client.writer.close()


def requests_of(queries: np.ndarray) -> list[bytes]:
    made = []
    for query in queries:
        vector = [round(float(value), 5) for value in query]
        body = json.dumps({"vector": vector, "k": HITS}).encode()
        head = (
            "POST /api/indexes/bench/search HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


Answers = list[tuple[int, float]]


async def again_and_again(url: str, requests: list[bytes], connections: int) -> dict[str, Any]:
    """Each client asks as soon as it is answered, for SECONDS / 2."""
    answers: Answers = []
    async with connected(url, connections) as clients:
        start = time.perf_counter()

        async def ask(client: Client, number: int) -> None:
            while time.perf_counter() - start < SECONDS / 2:
                answers.append(await client.ask(requests[number % len(requests)]))
                number += connections

        await asyncio.gather(*(ask(client, number) for number, client in enumerate(clients)))
        seconds = time.perf_counter() - start
    return {"connections": connections, **told(answers, seconds)}


async def paced(url: str, requests: list[bytes]) -> dict[str, Any]:
    """PACED requests a second whatever becomes of them; lateness of the client counts, too."""
    answers: Answers = []
    async with connected(url, 64) as clients:
        free: asyncio.Queue[Client] = asyncio.Queue()
        for client in clients:
            free.put_nowait(client)
        start = time.perf_counter()

        async def ask(number: int, due: float) -> None:
            client = await free.get()
            status, _ = await client.ask(requests[number % len(requests)])
            answers.append((status, time.perf_counter() - due))
            free.put_nowait(client)

        asked: list[asyncio.Task[None]] = []
        for number in range(PACED * SECONDS):
            due = start + number / PACED
            await asyncio.sleep(due - time.perf_counter())
            asked.append(asyncio.create_task(ask(number, due)))
        await asyncio.gather(*asked)
        seconds = time.perf_counter() - start
    return {"asked_a_second": PACED, **told(answers, seconds)}


async def crowd(url: str, requests: list[bytes]) -> dict[str, Any]:
    """CROWD clients at once, EACH requests one after the other."""
    answers: Answers = []
    async with connected(url, CROWD) as clients:
        start = time.perf_counter()

        async def ask(client: Client, first: int) -> None:
            for number in range(first, first + EACH):
                answers.append(await client.ask(requests[number % len(requests)]))

        asked = [ask(client, number) for number, client in enumerate(clients)]
        failed = await asyncio.gather(*asked, return_exceptions=True)
        seconds = time.perf_counter() - start
    lost = CROWD * EACH - sum(status == 200 for status, _ in answers)
    broken = sum(isinstance(each, Exception) for each in failed)
    return {"clients": CROWD, "lost": lost, "broken": broken, **told(answers, seconds)}


def told(answers: Answers, seconds: float) -> dict[str, Any]:
    taken = np.array([taken for _, taken in answers]) * 1000
    p50, p95, p99 = np.percentile(taken, [50, 95, 99]).round(1).tolist()
    failed = sum(status != 200 for status, _ in answers)
    rate = round(len(answers) / seconds, 1)
    return {"a_second": rate, "failed": failed, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measured(url: str, requests: list[bytes], server: Any) -> dict[str, Any]:
    await again_and_again(url, requests, 4)  # what is mapped is read
    start, busy = time.perf_counter(), cpu_seconds(server)
    steady = await paced(url, requests)
    steady["server_cores"] = round((cpu_seconds(server) - busy) / (time.perf_counter() - start), 2)
    return {
        "paced": steady,
        "again_and_again": [await again_and_again(url, requests, each) for each in CONNECTIONS],
        "crowd": await crowd(url, requests),
    }


def main(count: int = ROWS_KEPT) -> None:
    with TemporaryDirectory(prefix="sluice-service-") as store:
        make_store(store, count)
        start = time.process_time()
        index = build(store)
        index["cpu_seconds_to_build"] = round(time.process_time() - start, 1)
        queries = vectors(0, BODIES) + 0.02 * np.random.default_rng(3).normal(size=(BODIES, 512))
        with running(store) as (url, server):
            figures = asyncio.run(measured(url, requests_of(queries), server))
    result = {
        "what": f"client and server on one machine as it was, {count} vectors, {HITS} hits each",
        "index": index,
        **figures,
    }
    if count == ROWS_KEPT:
        keep("service", result, "fastapi", "uvicorn", "numpy")
    else:
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
