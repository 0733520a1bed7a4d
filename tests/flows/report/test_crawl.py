"""The report of a crawl against versions whose statistics were really noted."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import outcomes
from curation.fetch.observed import OTHERS, Observed
from curation.fetch.settings import FetchSettings
from curation.fingerprint import source_fingerprint
from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.intake import Intake
from curation.retry import DATASET, RetryWork, failed_version, retry_draft, retry_items
from curation.settings import SourceSettings
from flows.report.crawl import collect, outliers, read_statistics, write_crawl_report
from flows.report.hosts import Hosts, registrable
from flows.report.outcome_words import WORDS, in_words
from flows.report.pace import busy_seconds, in_bins, pace
from infra import artifacts
from infra.artifacts import Artifact
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.stage import Draft, Item, Work, run_stage
from tests.curation.fetch.server import FaultServer
from tests.curation.sources.made import picture, samples, tar_bytes
from tests.flows.report.crawled import Fetched, failed, make_crawl
from tests.flows.report.test_render import Page

HOSTILE = 'evil"><script>alert(1)</script>\u202e.com'
ALL = [value for name, value in vars(outcomes).items() if name.isupper() and type(value) is str]


SHARDS = [
    [Fetched("a.example.com")] * 70
    + [Fetched(HOSTILE)] * 5
    + [failed("b.example.com", outcomes.NOT_FOUND)] * 12
    + [failed("gone.example.org", outcomes.DNS)] * 8
    + [Fetched("a.example.com", None, outcomes.TOO_SMALL)] * 3
    + [Fetched("", "", outcomes.BAD_URL)] * 2
    for _ in range(9)
]
BAD = [Fetched("a.example.com")] * 30 + [failed("a.example.com", outcomes.DNS)] * 70


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Nine shards alike, and one while the resolver was down."""
    return make_crawl(tmp_path_factory.mktemp("crawl"), [*SHARDS, BAD])


@pytest.fixture(scope="module")
def text(made: Artifact) -> str:
    path = write_crawl_report(made.url)
    assert path == f"{made.url}/report/crawl.html"
    return Path(path).read_text(encoding="utf-8")


def said(text: str) -> str:
    return " ".join(" ".join(Page(text).text).split())


def test_the_page_adds_up_to_the_manifest(made: Artifact, text: str) -> None:
    crawl = collect(made)
    assert (crawl.rows, crawl.kept, crawl.again, crawl.lost) == (1000, 705, 142, 153)
    assert sum(loss.count for loss in crawl.losses) == crawl.again + crawl.lost
    assert {loss.reason: loss.count for loss in crawl.losses} == made.totals["dropped"]
    assert crawl.asked.records + crawl.unasked + crawl.silent_rows == crawl.rows
    assert crawl.unasked == 18  # the bad URLs
    assert crawl.fits
    shown = said(text)
    assert "70.5 % of 1,000 URLs became images." in shown
    assert "705 images and the 295 rows below are the 1,000" in shown
    counts = re.findall(r'<td class="n">([\d,]+)</td><td class="n">[^<]*</td></tr>', text)
    *reasons, together = [int(count.replace(",", "")) for count in counts]
    assert sum(reasons) == together == 295


def test_it_says_how_to_try_again(made: Artifact, text: str) -> None:
    name = f"web@{made.digest}"
    assert "asks again for those 142 alone" in said(text)
    assert f"prefect run ingest --retry-failed {name}" in text
    row = next(row for row in text.split("<tr>") if "<code>dns</code>" in row)
    assert "may pass" in row
    assert "may pass" not in next(row for row in text.split("<tr>") if "<code>http_404" in row)


def test_names_of_hosts_stay_text_and_nothing_is_loaded(text: str) -> None:
    page = Page(text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "\u202e" not in text
    assert not {name for name, _ in page.elements} & {"script", "iframe", "form", "base", "img"}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert (attributes.get("href") or "#").startswith(("#", "data:"))
    assert "url(" not in text
    assert {link["href"] for link in page.all("a")} == {f"#{s['id']}" for s in page.all("section")}


def test_the_shard_without_a_resolver_is_named(made: Artifact, text: str) -> None:
    (outlier,) = collect(made).outliers
    assert outlier.shard.name == "00009"
    assert (outlier.cause, outlier.count) == (in_words(outcomes.DNS).title, 70)
    shown = said(text)
    assert "host not found 70 %; in the whole crawl 14 %" in shown
    assert "2025-11-21 04:49" in shown


def test_chance_puts_no_shard_out_of_line(tmp_path: Path) -> None:
    good = [Fetched("a.com")] * 16 + [failed("a.com", outcomes.NOT_FOUND)] * 4
    unlucky = [Fetched("a.com")] * 3 + [failed("a.com", outcomes.NOT_FOUND)] * 2
    asked = collect(make_crawl(tmp_path, [good] * 5 + [unlucky])).asked
    assert outliers(asked) == []


def test_the_table_of_hosts_can_be_queried(made: Artifact, text: str) -> None:
    query = re.search(r'aria-label="Query"><code>(.*)</code>', text)
    assert query is not None
    path = f"{made.url}/report/hosts.parquet"
    sql = query[1].replace("&#39;", "'").replace("'hosts.parquet'", f"'{path}'")
    assert len(duckdb.sql(sql).fetchall()) == 4
    slow = duckdb.sql(f"SELECT host FROM '{path}' WHERE outcomes['http_404'] > 0").fetchall()
    assert slow == [("b.example.com",)]
    sums = duckdb.sql(f"SELECT sum(records), sum(ok), sum(failed), sum(transient) FROM '{path}'")
    assert sums.fetchall() == [(982, 732, 250, 142)]
    main = duckdb.sql(f"SELECT domain, main_failure, seconds FROM '{path}' LIMIT 1").fetchall()
    assert main == [("example.com", "dns", 0.5 * 687 + 2 * 70)]


def test_hosts_of_one_domain_are_summed(made: Artifact) -> None:
    crawl = collect(made)
    first = crawl.by_domain[0]
    assert (first.name, first.records, first.failures) == ("example.com", 865, 178)
    assert first.share == pytest.approx(687 / 865)
    assert [line.failures for line in crawl.by_failures] == [108, 72, 70]
    assert crawl.by_records[0].wait == pytest.approx((0.5 * 687 + 2 * 70) / 757)


def test_sizes_of_images(made: Artifact) -> None:
    pictures = collect(made).pictures
    assert pictures is not None
    assert pictures.images == 705
    sizes = {name: (low, half, high) for name, _, low, half, high in pictures.sizes}
    assert sizes["height"] == (50, 50, 50)
    widths = [*range(100, 175)] * 9 + [*range(100, 130)]
    assert sizes["width"] == pytest.approx(np.quantile(widths, [0.05, 0.5, 0.95]))
    assert sizes["bytes"][1] == len(picture(1))
    assert pictures.formats == [("jpg", 1.0)]


def test_shards_without_readable_statistics_are_told_apart(tmp_path: Path) -> None:
    made = make_crawl(tmp_path, [*SHARDS[:3], BAD])
    folder = Path(made.url, "statistics")
    (folder / "00001.json").unlink()
    (folder / "00003.json").write_bytes((folder / "00003.json").read_bytes()[:40])
    crawl = collect(made)
    assert (crawl.silent_shards, crawl.silent_rows, len(crawl.asked.shards)) == (2, 200, 2)
    assert crawl.asked.records + crawl.unasked == 200
    assert "2 of 4 shards, with 200 rows, left no statistics" in said(fill_page(made))


def fill_page(made: Artifact) -> str:
    return Path(write_crawl_report(made.url)).read_text(encoding="utf-8")


def test_statistics_of_another_version_are_noticed(tmp_path: Path) -> None:
    made = make_crawl(tmp_path, [BAD[:40], BAD])
    folder = Path(made.url, "statistics")
    (folder / "00000.json").write_bytes((folder / "00001.json").read_bytes())
    assert not collect(made).fits
    assert "does not fit" in said(fill_page(made))


def test_where_nothing_may_pass_there_is_no_command(tmp_path: Path) -> None:
    text = fill_page(make_crawl(tmp_path, [[failed("a.com", outcomes.GONE)] * 3]))
    assert "--retry-failed" not in text
    assert "another try would bring nothing" in said(text)
    assert "0.0 % of 3 URLs" in said(text)


def test_a_version_of_tars_gets_a_page(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.tar").write_bytes(tar_bytes(samples(3)))
    sources = [SourceSettings(tars=f"{tmp_path}/*.tar")]
    draft = ingest_draft(str(tmp_path / "store"), "pool", sources, source_fingerprint(sources))
    text = fill_page(_run(draft, ingest_items(sources), IngestWork(draft.url)))
    assert "100.0 % of 6 URLs became images." in said(text)
    assert "No shard of this version left statistics" in said(text)


def test_a_real_crawl_and_its_retry(tmp_path: Path) -> None:
    fetch = FetchSettings.model_validate(
        {"allow_networks": ["127.0.0.0/8"], "retries": 0, "robots_txt": False, "breaker": False}
    )
    intake, store = Intake(fetch), str(tmp_path / "store")
    with FaultServer() as server:
        paths = [f"/ok/{n}.jpg" for n in range(8)]
        paths += ["/status/503?times=1", "/status/500?times=9", "/status/404", "/html"]
        columns = {"url": [*map(server.url, paths), "no url"], "caption": ["a"] * 13}
        pq.write_table(pa.table(columns), tmp_path / "urls.parquet")
        sources = [SourceSettings(urls=str(tmp_path / "urls.parquet"))]
        draft = ingest_draft(store, DATASET, sources, source_fingerprint(sources), 5, intake)
        first = collect(_run(draft, ingest_items(sources, 5), IngestWork(draft.url, intake)))
        old = failed_version(store, first.version)
        draft = retry_draft(store, old, intake)
        again = collect(_run(draft, retry_items(old), RetryWork(draft.url, old.url, intake)))
    assert (first.rows, first.kept, first.again, first.lost, first.unasked) == (13, 8, 2, 3, 1)
    assert first.asked.outcomes == {"ok": 8, "http_5xx": 2, "http_404": 1, "not_an_image": 1}
    assert (again.rows, again.kept, again.again, again.lost) == (13, 9, 1, 3)
    assert again.asked.outcomes == {"ok": 1, "http_5xx": 1}
    for crawl in (first, again):
        assert (crawl.fits, crawl.shards, crawl.silent_shards) == (True, 3, 0)
        assert crawl.asked.records + crawl.unasked == 13
    said(fill_page(artifacts.load(draft.url)))


def _run(draft: Draft, items: list[Item], work: Work) -> Artifact:
    return run_stage("ingest", {"": draft}, items, work, InlineRunner(), SilentDisplay())[""]


def test_without_a_version_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match="no dataset version"):
        write_crawl_report(str(tmp_path))


def test_the_same_version_gives_the_same_page(made: Artifact, text: str) -> None:
    assert fill_page(made) == text


def test_every_outcome_has_words() -> None:
    assert set(ALL) <= set(WORDS)
    titles = [words.title for words in WORDS.values()]
    assert len(titles) == len(set(titles))
    assert in_words("of_tomorrow").title == "of tomorrow"


# ---- hosts in bounded memory ----

NAMES = ["a.x.com", "b.x.com", "c.y.co.uk", "d.y.co.uk", "e.z", "10.0.0.1", OTHERS]
NOTES = st.lists(
    st.tuples(
        st.sampled_from(
            ["a.x.com", "b.x.com", "c.y.co.uk", "d.y.co.uk", "e.z", "10.0.0.1", OTHERS]
        ),
        st.sampled_from([None, outcomes.DNS, outcomes.NOT_FOUND]),
        st.integers(0, 10**9),
    ),
    min_size=1,
    max_size=30,
)


@given(st.lists(NOTES, min_size=1, max_size=6), st.integers(1, 8))
def test_no_record_is_lost_however_few_hosts_are_held(
    shards: list[list[tuple[str, str | None, int]]], limit: int
) -> None:
    hosts, truth = Hosts(limit), Counter[tuple[str, str]]()
    total = Counter[str]()
    for notes in shards:
        observed = Observed()
        for host, outcome, size in notes:
            observed.note(host, outcome, size, 1.0)
            truth[host, outcome or "ok"] += 1
            total.update(records=1, bytes=size, seconds=1, ok=outcome is None)
        hosts.add(observed.to_json()["hosts"])
    hosts.finish()
    records = Counter[str]()
    for (host, _), count in truth.items():
        records[host] += count
    for table in (hosts.hosts.table(), hosts.domains.table()):
        rows = table.to_pylist()
        assert len(rows) <= limit + 1
        for column in ("records", "bytes", "seconds", "ok"):
            assert sum(row[column] for row in rows) == total[column]
        for row in rows:
            assert sum(count for _, count in row["outcomes"]) == row["records"]
    for row in hosts.hosts.table().to_pylist():
        if row["host"] != OTHERS:
            assert 0 <= records[row["host"]] - row["records"] <= hosts.hosts.lacking


def test_a_large_host_stays_among_many_small_ones() -> None:
    hosts = Hosts(limit=50)
    for shard in range(40):
        observed = Observed()
        for number in range(30):
            observed.note(f"h{shard}-{number}.blog.com", outcomes.NOT_FOUND, 0, 1.0)
            observed.note("large.org", None, 10, 1.0)
        hosts.add(observed.to_json()["hosts"])
    hosts.finish()
    assert hosts.hosts.table()["host"][0].as_py() == "large.org"
    assert hosts.hosts.table()["records"][0].as_py() == 1200
    domains = {row["host"]: row["records"] for row in hosts.domains.table().to_pylist()}
    assert domains == {"large.org": 1200, "blog.com": 1200}


@pytest.mark.parametrize(
    ("host", "domain"),
    [("i.pinimg.com", "pinimg.com"), ("a.b.c.co.uk", "c.co.uk"), ("x.com.br", "x.com.br"),
     ("pinimg.com", "pinimg.com"), ("localhost", "localhost"), ("203.0.113.7", "203.0.113.7"),
     ("[2001:db8::1]", "[2001:db8::1]"), (OTHERS, OTHERS), ("i.ibb.co", "ibb.co")],
)  # fmt: skip
def test_registrable(host: str, domain: str) -> None:
    assert registrable(host) == domain


# ---- time ----

SPANS = st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e4), st.integers(0, 1000)), min_size=1)


@given(SPANS, st.integers(1, 50))
def test_what_is_spread_over_time_adds_up(spans: list[tuple[float, float, int]], bins: int) -> None:
    starts = np.array([start for start, _, _ in spans])
    ends = starts + np.array([seconds for _, seconds, _ in spans])
    counts = np.array([count for *_, count in spans], np.float64)
    edges = np.linspace(starts.min(), ends.max() + 1, bins + 1)
    spread = in_bins(starts, ends, counts, edges)
    assert spread.min() >= -1e-6
    assert spread.sum() == pytest.approx(counts.sum())


def test_time_at_work_counts_overlaps_once_and_gaps_not() -> None:
    starts, ends = np.array([50.0, 0.0, 5.0, 6.0]), np.array([60.0, 10.0, 7.0, 20.0])
    assert busy_seconds(starts, ends) == 30.0


def test_pace_of_overlapping_shards(made: Artifact) -> None:
    shards = read_statistics(made.url, [part.name for part in made.parts]).shards
    alone = pace(shards, [])
    assert alone is not None
    assert (alone.begin, alone.end) == ("2025-11-21 04:40", "2025-11-21 04:50")
    assert (alone.span, alone.busy, alone.at_once) == (600, 600, 1)
    assert alone.rate == pytest.approx(732 / 600)
    twice = pace([replace(shard, seconds=120.0) for shard in shards], [])
    assert twice is not None
    assert twice.busy == 660
    assert twice.at_once == pytest.approx(1200 / 660)
