"""Every fault of the web ends in its outcome, and good images come through whole and in order."""

import hashlib
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from curation import outcomes
from curation.fetch.blocklist_settings import BlocklistSettings
from curation.fetch.blocklists import Blocklists
from curation.fetch.breaker import WINDOW
from curation.fetch.fetch import Fetcher
from curation.fetch.observed import Observed
from curation.fetch.settings import FetchSettings
from curation.sources.base import Record
from infra.errors import PauseError
from tests.curation.fetch.certificates import authority
from tests.curation.fetch.names import NameServer
from tests.curation.fetch.server import FaultServer, jpeg

QUICK = {
    "allow_networks": ("127.0.0.0/8",), "connect_timeout": 2, "first_byte_timeout": 1,
    "timeout": 3, "retries": 2, "backoff": 0.05, "max_wait": 3, "max_bytes": 2**20,
    "robots_txt": False, "connections": 32, "per_host": 32,
}  # fmt: skip


def fetch(
    urls: list[str], lists: BlocklistSettings | None = None, **settings: object
) -> tuple[list[Record], Observed]:
    fetcher = Fetcher(
        FetchSettings.model_validate(QUICK | settings),
        Blocklists.load(lists or BlocklistSettings.model_validate({})),
    )
    observed = Observed()
    records = [Record(f"table#{index}", url=url, caption="x") for index, url in enumerate(urls)]
    try:
        return list(fetcher.fetched(iter(records), observed)), observed
    finally:
        fetcher.close()


def outcome(url: str, **settings: object) -> str | None:
    [record], _ = fetch([url], **settings)
    assert (record.image is None) == (record.reason is not None)
    return record.reason


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as made:
        yield made


FAULTS = [
    ("/status/404", outcomes.NOT_FOUND),
    ("/status/410", outcomes.GONE),
    ("/status/401", outcomes.DENIED),
    ("/status/403", outcomes.DENIED),
    ("/status/451", outcomes.CLIENT_ERROR),
    ("/status/429", outcomes.TOO_MANY_REQUESTS),
    ("/status/500", outcomes.SERVER_ERROR),
    ("/status/503", outcomes.SERVER_ERROR),
    ("/status/204", outcomes.BAD_RESPONSE),
    ("/status/50310", outcomes.BAD_RESPONSE),
    ("/status/0", outcomes.BAD_RESPONSE),
    ("/slow-header/1", outcomes.TIMEOUT),
    ("/slow-body/1", outcomes.TIMEOUT),
    ("/truncated/1", outcomes.TRUNCATED),
    ("/wrong-length/1", outcomes.TRUNCATED),
    ("/reset-body/1", outcomes.TRUNCATED),
    ("/reset", outcomes.CONNECT),
    ("/garbage", outcomes.BAD_RESPONSE),
    ("/headers", outcomes.BAD_RESPONSE),
    ("/html", outcomes.NOT_AN_IMAGE),
    ("/svg", outcomes.NOT_AN_IMAGE),
    ("/gzip-bomb", outcomes.TOO_LARGE),
    ("/endless", outcomes.TOO_LARGE),
    ("/loop/a", outcomes.REDIRECT_REFUSED),
    ("/redirect/9", outcomes.REDIRECT_REFUSED),
    ("/redirect/1?to=file:///etc/passwd", outcomes.REDIRECT_REFUSED),
    ("/redirect/1?to=http://169.254.169.254/latest/meta-data", outcomes.ADDRESS_REFUSED),
    ("/redirect/1?to=http://[::ffff:10.0.0.1]/", outcomes.ADDRESS_REFUSED),
    ("/redirect/1?to=http://2852039166/", outcomes.ADDRESS_REFUSED),  # 169.254.169.254
    ("/redirect/1?to=http://no-such-host.invalid/", outcomes.DNS),
    ("/tag/1?is=noai", outcomes.DISALLOWED_BY_HEADER),
    ("/tag/1?is=sluice:%20noimageindex", outcomes.DISALLOWED_BY_HEADER),
    ("/tag/1?is=otherbot:%20noai", None),
    ("/ok/1.jpg", None),
    ("/gzip/1.jpg", None),
    ("/redirect/4", None),
    ("/png-bomb", None),  # a whole file: that it is a bomb, its header will tell
]


def test_every_fault_ends_in_its_outcome(server: FaultServer) -> None:
    records, observed = fetch([server.url(path) for path, _ in FAULTS])
    assert {path: record.reason for (path, _), record in zip(FAULTS, records, strict=True)} == dict(
        FAULTS
    )
    for (path, expected), record in zip(FAULTS, records, strict=True):
        assert (record.image is None) == (expected is not None), path
    [host] = observed.hosts.values()
    assert host.records == len(FAULTS) == sum(host.outcomes.values())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://", outcomes.BAD_URL),
        ("ftp://127.0.0.1/x.jpg", outcomes.BAD_URL),
        ("file:///etc/passwd", outcomes.BAD_URL),
        ("http://user:secret@127.0.0.1/", outcomes.BAD_URL),
        ("http://127.0.0.1:1/", outcomes.CONNECT),
        ("http://localhost:1/", outcomes.CONNECT),
        ("http://10.0.0.1/x.jpg", outcomes.ADDRESS_REFUSED),
        ("http://[::1]/x.jpg", outcomes.ADDRESS_REFUSED),
        ("http://0x0a000001/x.jpg", outcomes.ADDRESS_REFUSED),
        ("http://no-such-host.invalid/x.jpg", outcomes.DNS),
    ],
)
def test_urls_that_lead_nowhere(url: str, expected: str) -> None:
    assert outcome(url) == expected


def test_good_images_come_whole_and_in_order_whatever_is_between(server: FaultServer) -> None:
    paths = [f"/ok/{n}.jpg" if n % 7 else f"/slow-body/{n}?pause=0.002" for n in range(300)]
    paths[150] = "/slow-header/150?seconds=0.8"
    records, observed = fetch([server.url(path) for path in paths])
    assert [record.source for record in records] == [f"table#{n}" for n in range(300)]
    assert [record.image for record in records] == [jpeg(n) for n in range(300)]
    assert observed.to_json()["outcomes"] == {"ok": 300}


def test_transient_failures_pass_and_permanent_ones_are_not_tried_again() -> None:
    with FaultServer() as server:
        flapping = [f"/status/503/{n}?times=2" for n in range(5)]
        permanent = ["/status/404", "/html", "/status/403", "/loop/a", "/tag/1?is=noai"]
        records, observed = fetch([server.url(path) for path in flapping + permanent])
        assert [record.reason for record in records[:5]] == [None] * 5
        assert all(server.asked[path] == 3 for path in flapping)
        assert all(server.asked[path] == 1 for path in permanent)
        assert observed.retries == 10


def test_retry_after_is_honoured() -> None:
    with FaultServer() as server:
        start = time.monotonic()
        assert outcome(server.url("/status/429?after=2&times=1")) is None
        assert time.monotonic() - start >= 2
        start = time.monotonic()
        assert outcome(server.url("/status/429?after=3600")) == outcomes.TOO_MANY_REQUESTS
        assert time.monotonic() - start < 1
        assert server.asked["/status/429?after=3600"] == 1


def test_connections_are_bounded_and_used_again() -> None:
    with FaultServer() as server:
        urls = [server.url(f"/ok/{n}.jpg") for n in range(400)]
        fetch(urls, connections=6, per_host=4)
        assert server.busiest <= 4
        assert server.connections <= 8


def test_the_rate_of_requests_to_a_host_is_bounded() -> None:
    with FaultServer() as server:
        start = time.monotonic()
        fetch([server.url(f"/ok/{n}.jpg") for n in range(11)], rate=10)
        assert time.monotonic() - start >= 0.95


def test_the_agent_is_honest() -> None:
    with FaultServer() as server:
        fetch([server.url("/ok/1.jpg")], contact="https://example.org/crawl")
        [agent] = server.agents
        assert agent.startswith("sluice/") and "https://example.org/crawl" in agent


def test_robots_txt_is_asked_once_and_obeyed() -> None:
    rules = "User-agent: sluice\nDisallow: /ok/private\nUser-agent: *\nDisallow: /\n"
    with FaultServer(robots=rules) as server:
        paths = [f"/ok/{n}.jpg" for n in range(40)] + ["/ok/private/1.jpg"]
        records, _ = fetch([server.url(path) for path in paths], robots_txt=True)
        assert [record.reason for record in records] == [None] * 40 + [
            outcomes.DISALLOWED_BY_ROBOTS
        ]
        assert server.asked["/robots.txt"] == 1
        assert server.asked["/ok/private/1.jpg"] == 0
        assert outcome(server.url("/ok/private/1.jpg"), robots_txt=False) is None


def test_a_dead_server_is_not_called_disallowed() -> None:
    assert outcome("http://127.0.0.1:1/x.jpg", robots_txt=True) == outcomes.CONNECT
    with FaultServer() as server:
        url = server.url("/ok/1.jpg")
    assert outcome(url, robots_txt=True) == outcomes.CONNECT


def test_listed_samples_are_not_taken(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "sha256").write_text(hashlib.sha256(jpeg(2)).hexdigest() + "\n")
    (tmp_path / "urls").write_text(server.url("/ok/3.jpg") + "\n")
    (tmp_path / "domains").write_text("listed.example\n")
    lists = BlocklistSettings(
        sha256=str(tmp_path / "sha256"), urls=str(tmp_path / "urls"),
        domains=str(tmp_path / "domains"),
    )  # fmt: skip
    asked = [server.url(f"/ok/{n}.jpg") for n in (1, 2, 3)]
    asked.append(server.url("/redirect/1?to=" + server.url("/ok/3.jpg")))
    asked.append("https://images.listed.example/1.jpg")
    before = server.asked["/ok/3.jpg"]
    records, _ = fetch(asked, lists)
    assert [record.reason for record in records] == [None] + [outcomes.BLOCKLISTED] * 4
    assert server.asked["/ok/3.jpg"] == before


def test_bytes_that_are_not_those_promised(server: FaultServer) -> None:
    fetcher = Fetcher(
        FetchSettings.model_validate(QUICK),
        Blocklists.load(BlocklistSettings.model_validate({})),
    )
    good = {n: hashlib.sha256(jpeg(n)).hexdigest().upper() for n in (1, 2)}
    good[3] = hashlib.md5(jpeg(3)).hexdigest()
    promised = [(1, good[1]), (2, good[1]), (3, good[3]), (4, good[3]), (5, None)]
    records = [
        Record("t", url=server.url(f"/ok/{n}.jpg"), expected=expected) for n, expected in promised
    ]
    found = [record.reason for record in fetcher.fetched(iter(records), Observed())]
    assert found == [None, outcomes.HASH_MISMATCH, None, outcomes.HASH_MISMATCH, None]
    fetcher.close()


def test_certificates_are_checked(tmp_path: Path) -> None:
    ours, served = authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(served)
    with FaultServer(tls=context) as server:
        assert outcome(server.url("/ok/1.jpg"), ca_file=str(ours)) is None
        assert outcome(server.url("/ok/1.jpg")) == outcomes.TLS
        wrong = server.url("/ok/1.jpg", host="127.0.0.2")
        assert outcome(wrong, ca_file=str(ours)) in (outcomes.TLS, outcomes.CONNECT)
    with FaultServer() as plain:
        url = plain.url("/ok/1.jpg").replace("http:", "https:")
        assert outcome(url, timeout=1) in (outcomes.TLS, outcomes.TIMEOUT)


def test_a_broken_resolver_stops_the_run_instead_of_writing_failures() -> None:
    with NameServer({}) as names, pytest.raises(PauseError, match="dns") as caught:
        fetch([f"http://host{n}.example/" for n in range(3 * WINDOW)], resolvers=(names.address,))
    assert "data.fetch.resolvers" in caught.value.way_out
    with NameServer({}) as names:
        records, _ = fetch(
            [f"http://host{n}.example/" for n in range(3 * WINDOW)],
            resolvers=(names.address,), breaker=False,
        )  # fmt: skip
        assert [record.reason for record in records] == [outcomes.DNS] * 3 * WINDOW


def test_records_that_are_settled_pass_by(server: FaultServer) -> None:
    fetcher = Fetcher(
        FetchSettings.model_validate(QUICK),
        Blocklists.load(BlocklistSettings.model_validate({})),
    )
    records = [
        Record("a", image=b"bytes"),
        Record("b", url=server.url("/ok/1.jpg"), reason=outcomes.BAD_LINE),
        Record("c", url=server.url("/ok/2.jpg")),
    ]
    for _ in range(2):  # the same fetcher serves one shard after the other
        found = list(fetcher.fetched(iter(records), Observed()))
        assert found[:2] == records[:2]
        assert found[2].image == jpeg(2)
    fetcher.close()
