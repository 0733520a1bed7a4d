"""The service as a real process: keys, limits, newer versions under load, its end."""

import http.client
import json
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
