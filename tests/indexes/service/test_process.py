"""The service as a real process: keys, limits, newer versions under load, its end."""

import asyncio
import contextlib
import http.client
import json
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from infra.dataset import open_dataset
from tests.indexes.service.conftest import make_version, publish_version
from tests.indexes.service.process import Server, running

KEY = "a key that nobody guesses"
SEARCH = "/api/indexes/curated/search"
VECTOR = [1.0] * 16


@pytest.fixture(scope="module")
def server(judged: str) -> Any:
    with running(judged, "--in-flight", "4", "--queue", "8") as started:
        yield started


def test_a_key_is_wanted_beyond_loopback(judged: str) -> None:
    with running(judged, "--host", "0.0.0.0", key=KEY) as server:
        assert server.ask("/healthz")[0] == 200
        for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer "}):
            status, body = server.ask("/api/indexes", headers=headers)
            assert (status, set(body)) == (401, {"error", "way_out"})
            assert KEY not in str(body)
        assert server.ask("/metrics")[0] == 401
        assert server.ask("/openapi.json")[0] == 401
        for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
            assert server.ask("/api/indexes", headers=headers)[0] == 200
        assert server.stop()[0] == 0


def test_without_a_key_only_this_machine_is_answered(server: Server) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost@evil.example", ""):
        assert server.ask("/api/indexes", headers={"Host": host})[0] == 403
    assert server.ask("/api/indexes", headers={"Host": "localhost:1"})[0] == 200
    cross = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert server.ask(SEARCH, {"vector": VECTOR}, cross)[0] == 403


def connection(server: Server) -> http.client.HTTPConnection:
    address = urlsplit(server.url)
    assert address.hostname is not None
    return http.client.HTTPConnection(address.hostname, address.port, timeout=60)


def test_every_answer_has_its_headers(server: Server) -> None:
    asked = connection(server)
    for path, status in (("/api/indexes", 200), ("/nothing", 404)):
        asked.request("GET", path)
        response = asked.getresponse()
        response.read()
        assert response.status == status
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self'; img-src 'self' data: blob:")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "server" not in response.headers


def test_a_body_too_large_is_not_read(server: Server) -> None:
    asked = connection(server)
    asked.putrequest("POST", SEARCH)
    asked.putheader("Content-Type", "application/json")
    asked.putheader("Content-Length", str(2**30))
    asked.endheaders(b"{")
    response = asked.getresponse()
    assert (response.status, set(json.load(response))) == (413, {"error", "way_out"})

    chunked = connection(server)

    def endless() -> Any:
        for _ in range(40):
            yield b" " * 2**20

    try:
        chunked.request("POST", SEARCH, endless(), {"Content-Type": "application/json"})
        assert chunked.getresponse().status == 413
    except (ConnectionError, BrokenPipeError):
        pass  # it was answered, and closed, before all was sent
    assert server.ask("/healthz")[0] == 200


def test_beyond_the_queue_clients_are_told_when_to_come_again(server: Server) -> None:
    """Twelve requests that never finish their bodies fill it; the others are told at once."""
    address = urlsplit(server.url)
    held = []
    head = f"POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for _ in range(12):
        held.append(socket.create_connection((address.hostname, address.port)))
        held[-1].sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    deadline = time.monotonic() + 30
    while (answer := server.ask(SEARCH, {"vector": VECTOR}))[0] != 503:
        assert time.monotonic() < deadline
    assert "too many" in answer[1]["error"]
    asked = connection(server)
    asked.request("GET", "/api/indexes")
    assert asked.getresponse().headers["Retry-After"] == "1"
    assert server.ask("/healthz")[0] == 200
    for each in held:
        each.close()
    while server.ask(SEARCH, {"vector": VECTOR})[0] != 200:
        assert time.monotonic() < deadline


def asked_again(asked: http.client.HTTPConnection) -> tuple[int, Any]:
    asked.request("GET", "/api/indexes")
    response = asked.getresponse()
    return response.status, json.load(response)


def test_beyond_the_connections_a_client_is_told_when_to_come_again(judged: str) -> None:
    """Those that are there go on, also where they ask nothing, and a place that is left is free."""
    with running(judged, "--connections", "4") as server:
        address = urlsplit(server.url)
        silent = socket.create_connection((address.hostname, address.port), timeout=30)
        held = [connection(server) for _ in range(3)]
        assert [asked_again(each)[0] for each in held] == [200] * 3
        for _ in range(3):
            late = connection(server)
            status, body = asked_again(late)
            assert status == 503 and "too many connections" in body["error"]
        late.request("POST", SEARCH, json.dumps({"vector": VECTOR}))
        refused = late.getresponse()
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert refused.headers["X-Content-Type-Options"] == "nosniff"
        assert [asked_again(each)[0] for each in held] == [200] * 3
        silent.close()
        deadline = time.monotonic() + 30
        while server.ask(SEARCH, {"vector": VECTOR})[0] != 200:
            assert time.monotonic() < deadline
        assert 'sluice_requests_total{route="refused",status="503"}' in metrics(server)
        assert server.stop()[0] == 0


def ended(held: socket.socket, seconds: float, *sent: bytes) -> bool:
    """Whether the server ends a connection within seconds, while one piece after another is sent.

    The last piece is sent again and again.
    """
    held.settimeout(0.1)
    until, pieces = time.monotonic() + seconds, list(sent)
    while time.monotonic() < until:
        try:
            if pieces:
                held.sendall(pieces[0] if len(pieces) == 1 else pieces.pop(0))
            if not held.recv(65536):
                return True
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


def test_a_head_that_does_not_come_ends_its_connection(judged: str) -> None:
    with running(judged, "--deadline", "1", "--connections", "5") as server:
        address = urlsplit(server.url)
        whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for sent in (
            (),
            (b"GET /", b"x"),
            (whole[:30], b"x"),
            (whole, b"GET / HTTP/1.1\r\n", b"x: y\r\n"),
        ):
            with socket.create_connection((address.hostname, address.port)) as slow:
                assert not ended(slow, 0.5, *sent)
            with socket.create_connection((address.hostname, address.port)) as slow:
                assert ended(slow, 20, *sent), sent
        idle = connection(server)
        assert asked_again(idle)[0] == 200
        time.sleep(2)
        kept = idle.sock
        assert asked_again(idle)[0] == 200 and idle.sock is kept
        code, logged = server.stop()
        assert code == 0 and "Traceback" not in logged


def test_a_head_without_end_is_refused(server: Server) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as asked:
        asked.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(10_000):
                asked.sendall(b"x-%d: %s\r\n" % (number, b"y" * 1000))
        with contextlib.suppress(ConnectionError):
            assert b" 431 " in asked.recv(65536)
    for head in (b"\0\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n: \r\n\r\n"):
        with socket.create_connection((address.hostname, address.port), timeout=30) as asked:
            asked.sendall(head)
            assert b" 400 " in asked.recv(65536)
    assert server.ask("/healthz")[0] == 200


def test_of_a_thousand_clients_at_once_none_is_lost(judged: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    body = json.dumps({"vector": VECTOR, "k": 2})
    head = f"POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    async def client(address: Any) -> list[bytes]:
        read, write = await asyncio.open_connection(address.hostname, address.port)
        said: list[bytes] = []
        for _ in range(2):
            write.write(request)
            answer = await read.readuntil(b"\r\n\r\n")
            (length,) = (
                line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length")
            )
            await read.readexactly(int(length.partition(b":")[2]))
            said.append(answer[:12])
        write.close()
        return said

    async def clients(address: Any) -> list[list[bytes]]:
        return await asyncio.gather(*(client(address) for _ in range(1000)))

    try:
        with running(judged) as server:
            answers = asyncio.run(clients(urlsplit(server.url)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert answers == [[b"HTTP/1.1 200"] * 2] * 1000


def test_a_request_that_takes_too_long_is_told(judged: str) -> None:
    with running(judged, "--deadline", "0.5") as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as slow:
            head = f"POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
            slow.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
            told = slow.recv(65536).decode()
        assert told.startswith("HTTP/1.1 503") and "retry-after: 1" in told.lower()


Ask = Callable[[], tuple[int, Any]]


def under_load(ask: Ask, clients: int, until: threading.Event) -> Counter[Any]:
    """Statuses and versions that clients saw who ask again and again."""
    seen: Counter[Any] = Counter()

    def client() -> None:
        while not until.is_set():
            status, body = ask()
            seen[status, body["how"] if status == 200 else str(body)] += 1

    with ThreadPoolExecutor(clients) as pool:
        for each in [pool.submit(client) for _ in range(clients)]:
            each.result()
    return seen


def test_a_newer_version_goes_live_under_load(own: str) -> None:
    with running(own, "--follow", "0.2") as server:
        done, names = threading.Event(), set()

        def ask() -> tuple[int, Any]:
            return server.ask(SEARCH, {"vector": VECTOR, "k": 3})

        with ThreadPoolExecutor(1) as pool:
            seen = pool.submit(under_load, ask, 4, done)
            old = served(server)
            newer = f"curated@{publish_version(own, 1, 'second').digest}"
            deadline = time.monotonic() + 60
            while (name := served(server)) != newer:
                names.add(name)
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(0.5)
            done.set()
            counts = seen.result()
        assert names <= {old} and {status for status, _ in counts} == {200}
        assert sum(counts.values()) > 20
        status, body = server.ask(f"/api/indexes/{old}/search", {"vector": VECTOR})
        assert status == 404 and newer in body["error"]


def served(server: Server) -> str:
    status, body = server.ask("/healthz")
    assert status == 200
    (name,) = body["indexes"]
    return name


def test_a_broken_newer_version_is_told_and_the_old_one_stays(own: str) -> None:
    with running(own, "--follow", "0.1") as server:
        old = served(server)
        newer = make_version(own, 1, "second")
        for file in Path(newer.path("index")).glob("*/ids.npy"):
            file.write_bytes(b"no index")
        Path(own, "curated", "latest").write_text(newer.digest)
        deadline = time.monotonic() + 60
        while not (failed := server.ask("/healthz")[1]["failed"]):
            assert time.monotonic() < deadline
        assert "damaged" in failed["curated"] and served(server) == old
        assert server.ask(SEARCH, {"vector": VECTOR})[0] == 200
        Path(own, "curated", "latest").write_text(old.partition("@")[2])
        while server.ask("/healthz")[1]["failed"]:
            assert time.monotonic() < deadline


def test_a_version_without_an_index_is_waited_for(own: str) -> None:
    with running(own, "--follow", "0.1") as server:
        pool = open_dataset(own, "pool").artifact.digest
        Path(own, "curated", pool).symlink_to(Path(own, "pool", pool))
        Path(own, "curated", "latest").write_text(pool)
        deadline = time.monotonic() + 30
        while not (waiting := server.ask("/healthz")[1]["waiting"]):
            assert time.monotonic() < deadline
        assert waiting == {"curated": f"no index of curated@{pool} is published yet"}
        assert server.ask(SEARCH, {"vector": VECTOR})[0] == 200


def metrics(server: Server) -> str:
    asked = connection(server)
    asked.request("GET", "/metrics")
    return asked.getresponse().read().decode()


def reachable(server: Server) -> bool:
    address = urlsplit(server.url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=30).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_what_is_under_way_is_finished_at_the_end(judged: str, number: int) -> None:
    with running(judged) as server:
        address = urlsplit(server.url)
        body = json.dumps({"vector": VECTOR, "k": 2}).encode()
        with socket.create_connection((address.hostname, address.port), timeout=30) as begun:
            head = f"POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
            begun.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:10])
            deadline = time.monotonic() + 30
            while "sluice_requests_in_flight 2.0" not in metrics(server):  # and this question
                assert time.monotonic() < deadline
            server.process.send_signal(number)
            while reachable(server):
                assert time.monotonic() < deadline
            begun.sendall(body[10:])
            told = begun.recv(65536)
        assert told.startswith(b"HTTP/1.1 200"), told[:200]
        _, logged = server.process.communicate(timeout=60)
        assert server.process.returncode == 0
        assert "Traceback" not in logged


def test_the_log_holds_no_words_of_requests(judged: str) -> None:
    with running(judged) as server:
        server.ask(SEARCH, {"text": "a very secret caption"})
        server.ask(SEARCH, {"text": "secret", "where": "secret = 'caption'"})
        server.ask("/api/indexes/secret/rows/secret")
        code, logged = server.stop()
    assert code == 0 and "secret" not in logged and "GET" not in logged
