"""What `ingest --source` and `--retry-failed` do, from the options to the report of the crawl."""

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from curation import outcomes
from flows.main import Options, Result, execute, prepare
from flows.step import Session, Step
from infra.artifacts import Artifact
from infra.dataset import Dataset, open_dataset
from infra.errors import SluiceError
from infra.progress import PlainDisplay, SilentDisplay
from tests.curation.fetch.server import FaultServer, jpeg

INLINE = (
    "run.executor=inline",
    "data.fetch.allow_networks=[127.0.0.0/8]",
    "data.fetch.retries=0",
    "data.fetch.robots_txt=false",
    "data.rows_per_shard=8",
)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as made:
        yield made


def run(options: Options, said: list[str]) -> Result:
    def run_step(step: Step, session: Session) -> Mapping[str, Artifact]:
        return step.run(session)

    return execute(prepare(options), "ingest", PlainDisplay(said.append), run_step)


def csv_table(folder: Path, server: FaultServer, count: int) -> str:
    """LAION's columns; every fifth URL fails once."""
    lines = ["URL,TEXT,WIDTH,similarity"]
    for number in range(count):
        path = f"/ok/{number}.jpg" if number % 5 else f"/status/503/{number}.jpg?times=1"
        lines.append(f'{server.url(path)},"picture, number {number}",48,0.3')
    path = folder / "table.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    return str(path)


def test_a_text_table_is_read_fetched_reported_and_retried(
    server: FaultServer, tmp_path: Path
) -> None:
    table, store, said = csv_table(tmp_path, server, 20), str(tmp_path / "store"), list[str]()
    options = Options(None, INLINE, store)
    first = run(options.reading([table]), said)
    assert list(first.made) == ["read pool table", "ingest pool"]
    made = first.made["ingest pool"][""]
    assert made.totals["dropped"] == {outcomes.SERVER_ERROR: 4}
    [report] = [line for line in said if line.startswith("crawl report: ")]
    page = Path(report.removeprefix("crawl report: ")).read_text()
    assert f"--retry-failed pool@{made.digest}" in page
    again = run(options.reading([table]), said)
    assert all(timing.from_store for timing in again.timings)

    retried = run(options.reading(retry_failed="latest"), said).made["ingest pool"][""]
    assert retried.totals["kept"] == 20
    assert retried.manifest["spec"]["parents"] == [made.digest]
    latest = open_dataset(store, "pool")
    assert latest.artifact == retried
    found = [sample.image for shard in latest.shards for sample in latest.samples(shard)]
    assert found == [jpeg(number) for number in range(20)]
    rows = Dataset(retried).rows(0).to_pylist()
    assert rows[1]["caption"] == "picture, number 1" and rows[1]["meta"] == (
        '{"WIDTH":48,"similarity":0.3}'
    )
    with pytest.raises(SluiceError, match="no transient failure"):
        prepare(options.reading(retry_failed="latest"))


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    options = Options(None, (), str(tmp_path / "store"))
    with pytest.raises(SluiceError, match="exclude each other"):
        options.reading(["a.parquet"], "latest")
    with pytest.raises(SluiceError, match=r"nothing\.here"):
        options.reading([str(tmp_path / "nothing.here")])
    with pytest.raises(SluiceError, match="no dataset 'pool'"):
        prepare(options.reading(retry_failed="latest"))
    with pytest.raises(SluiceError, match="is not in"):
        prepare(options.reading(retry_failed="pool@0123456789abcdef"))


def test_options_without_a_source_stay_as_they_are() -> None:
    options = Options("three-seeds", ("seed=1",), "store")
    assert options.reading() is options


def test_a_plan_does_not_ask_the_web(server: FaultServer, tmp_path: Path) -> None:
    from flows.plan import plan

    table = csv_table(tmp_path, server, 20)
    before = sum(server.asked.values())
    shown = plan(Options(None, INLINE, str(tmp_path / "store")).reading([table]), "ingest")
    assert "read pool table" in shown and "ingest pool" in shown
    assert sum(server.asked.values()) == before
    assert not (tmp_path / "store").exists()


def test_a_version_is_exported_for_other_tools(server: FaultServer, tmp_path: Path) -> None:
    import webdataset

    from flows.export import export

    store, target = str(tmp_path / "store"), tmp_path / "out"
    table = csv_table(tmp_path, server, 20)
    options = Options(None, INLINE, store)
    kept = run(options.reading([table]), []).made["ingest pool"][""].totals["kept"]
    told = export(
        Options("your-shards", INLINE, store), "pool", str(target), SilentDisplay(),
        samples_per_shard=6, columns=("uid", "similarity:float64"),
    )  # fmt: skip
    assert told.startswith(f"{kept} samples in {-(-kept // 6)} shards")
    tars = sorted(str(path) for path in target.glob("*.tar"))
    found = [sample["jpg"] for sample in webdataset.WebDataset(tars, shardshuffle=False)]
    assert len(found) == kept and set(found) <= {jpeg(number) for number in range(20)}
