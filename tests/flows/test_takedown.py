"""Takedown as a whole: what goes, what stays, what comes again, killed anywhere, and its proof."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from curation import outcomes, score
from curation.scores.registry import pixel_scorers
from flows.main import Options, execute, explain, prepare
from flows.recipe import load_recipe
from flows.store import upkeep
from flows.takedown import main
from flows.takedown.signing import VARIABLE, key_path
from flows.takedown.verify import verify
from flows.versions import named_version
from indexes.removed import removals
from indexes.subset import make_subset
from infra import artifacts, filesystem
from infra.artifacts import verify as damaged
from infra.dataset import index_id, open_dataset
from infra.errors import SluiceError
from infra.progress import PlainDisplay, SilentDisplay
from infra.runner import InlineRunner
from infra.stage import Item, run_stage
from pretrain.seen import seen
from tests.clouds import CLOUDS
from tests.curation.fetch.server import FaultServer
from tests.curation.sources.made import picture, samples, tar_bytes
from tests.flows.conftest import run_small
from tests.flows.takedowns import (
    INLINE,
    OVERRIDES,
    all_rows,
    check,
    everything,
    images,
    ingest,
    states,
    take,
    uid,
    write_table,
)
from tests.s3 import S3


@pytest.fixture(autouse=True)
def _own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A pool of four shards, published."""
    store = str(tmp_path / "store")
    ingest(store, write_table(tmp_path))
    return store


def test_what_is_asked_for_goes_and_all_else_stays_where_it_is(store: str, tmp_path: Path) -> None:
    before, old = images(store), open_dataset(store, "pool").artifact
    told = take(store, tmp_path, "uids", [uid(2), uid(7)], "a letter")
    assert "1 md5" not in told and f"pool@{old.digest}" in told
    after, new = states(store), open_dataset(store, "pool").artifact
    gone = {uid(2), uid(3), uid(7)}  # number 3 is a copy of the image of number 2
    assert {key for key, reason in after.items() if reason == outcomes.TAKEN_DOWN} == gone
    assert images(store) == {key: data for key, data in before.items() if key not in gone}
    assert damaged(new) == [] and new.totals["dropped"] == {outcomes.TAKEN_DOWN: 3}
    for row in all_rows(open_dataset(store, "pool")):
        if row["uid"] in gone:
            held = {name for name, value in row.items() if value is not None}
            assert held == {"uid", "shard", "row", "status", "reason", "source"}
    # Only the two shards that held them have tars of their own; the others are read where they lie.
    assert sorted(path.name for path in Path(new.url, "shards").iterdir()) == [
        "00000.tar", "00001.tar",
    ]  # fmt: skip
    left = sorted(str(path.relative_to(old.url)) for path in Path(old.url).rglob("*.*"))
    assert left == ["shards/00002.tar", "shards/00003.tar", "withdrawn.json"]
    table, clean = check(store)
    assert clean and "REMAINS" not in table
    assert "taken down before" in take(store, tmp_path, "uids", [uid(2), uid(7)])
    with pytest.raises(SluiceError, match=r"withdrawn by the takedown") as raised:
        named_version(store, f"pool@{old.digest}", "data.retry_failed")
    assert new.digest in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        pytest.param("run.address=http://127.0.0.1:1", id="beside a cluster that takes jobs"),
        pytest.param("run.address=local", id="on Ray", marks=[pytest.mark.ray, pytest.mark.long]),
    ],
)
def test_it_comes_to_the_same_end_wherever_it_runs(store: str, tmp_path: Path, where: str) -> None:
    shutil.copytree(store, tmp_path / "before")
    take(store, tmp_path, "uids", [uid(2), uid(7)])
    expected = everything(Path(store))
    shutil.rmtree(store)
    shutil.copytree(tmp_path / "before", store)
    elsewhere = load_recipe(None, ("run.executor=ray", "run.workers=2", where)).run
    take(store, tmp_path, "uids", [uid(2), uid(7)], where=elsewhere)
    assert everything(Path(store)) == expected
    _, clean = verify(store, "latest", True, elsewhere, SilentDisplay())
    assert clean


@pytest.mark.slow
def test_killed_anywhere_the_same_command_comes_to_the_same_end(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at every write, and at every removal."""
    pool = open_dataset(store, "pool")
    make_subset(pool, np.array([index_id(0, 2), index_id(1, 1)]), "few", "test")
    shutil.copytree(store, tmp_path / "before")
    take(store, tmp_path, "uids", [uid(2), uid(7)])
    expected, writes = everything(Path(store)), 0

    class KilledError(BaseException):
        pass

    def failing(name: str, module: object) -> None:
        real = getattr(module, name)

        def write(*arguments: object, **more: object) -> object:
            nonlocal writes
            writes -= 1
            if writes == 0:
                raise KilledError
            return real(*arguments, **more)

        monkeypatch.setattr(module, name, write)

    for name in (
        "write_bytes", "put_if_absent", "write_whole", "remove_tree", "remove_file", "remove_files"
    ):  # fmt: skip
        failing(name, filesystem)
    killed = 0
    for writes_left in range(1, 200, 4):
        shutil.rmtree(store)
        shutil.copytree(tmp_path / "before", store)
        writes = writes_left
        try:
            take(store, tmp_path, "uids", [uid(2), uid(7)])
        except KilledError:
            killed += 1
            writes = -1
            take(store, tmp_path, "uids", [uid(2), uid(7)])
        else:
            break
        assert everything(Path(store)) == expected, writes_left
    assert killed > 8 and writes > 0


def test_takedowns_follow_each_other_through_versions_that_share_tars(
    store: str, tmp_path: Path
) -> None:
    pool = open_dataset(store, "pool")
    chosen = np.array([index_id(0, row) for row in range(4)] + [index_id(2, 1)])
    few = make_subset(pool, chosen, "few", "test")
    take(store, tmp_path, "uids", [uid(0)])
    assert open_dataset(store, "few").artifact.settings["of"]["version"] == (
        open_dataset(store, "pool").artifact.digest
    )
    assert set(images(store, "few")) == {uid(1), uid(2), uid(3), uid(11)}
    take(store, tmp_path, "urls", ["http://HOST3.example.org:80/11.png"])  # as RFC 3986 has it
    take(store, tmp_path, "domains", ["host1.example.org"])
    assert set(images(store, "few")) == {uid(2), uid(3)}
    assert {number for number in range(20) if uid(number) not in images(store)} == {
        0, 11, *range(1, 20, 4),
    }  # fmt: skip
    for name in (path.name for path in Path(store, "takedowns").iterdir()):
        table, clean = check(store, name)
        assert clean, table
    [record] = [
        json.loads(path.read_bytes())["record"]
        for path in Path(store).glob("takedowns/*/record.json")
        if json.loads(path.read_bytes())["record"]["number"] == 3
    ]
    assert record["request"]["domains"]["count"] == 1 and record["list"]["counts"]["domains"] == 1
    assert "host1" not in Path(store, "takedowns", record["id"], "list.json").read_text()
    tars = set(Path(store).rglob("*.tar"))
    assert len(tars) == 4  # one for each shard: what nobody refers to is gone
    with pytest.raises(SluiceError, match="withdrawn"):
        artifacts.load(few.url)


def test_by_hash_also_of_files_in_tars_of_ones_own(tmp_path: Path) -> None:
    store, tar = str(tmp_path / "store"), tmp_path / "mine" / "00000.tar"
    tar.parent.mkdir()
    tar.write_bytes(tar_bytes(samples(6)))
    options = Options(None, OVERRIDES, store).reading([str(tar)])
    execute(prepare(options), "ingest", SilentDisplay(), lambda step, session: step.run(session))
    before = tar.read_bytes()
    md5 = hashlib.md5(picture(1)).hexdigest()
    sha256 = hashlib.sha256(picture(4)).hexdigest()
    told = take(store, tmp_path, "hashes", [md5, sha256])
    assert f"a source, left as it is: {tar}" in told and tar.read_bytes() == before
    assert sorted(images(store).values()) == sorted(picture(n) for n in (0, 2, 3, 5))
    table, clean = check(store)
    assert clean and f"left as it is, may still have it: {tar}" in table


def test_the_recipe_goes_on_and_a_fresh_store_obeys_the_list(tmp_path: Path) -> None:
    store, table = str(tmp_path / "store"), write_table(tmp_path)
    pool = f'data.pool=[{{"parquet": "{table}", "url": "url"}}]'
    options = Options("your-shards", (pool, *OVERRIDES), store)

    def ingested(options: Options) -> bool:
        result = execute(
            prepare(options), "ingest", SilentDisplay(), lambda step, session: step.run(session)
        )
        return all(timing.from_store for timing in result.timings)

    assert not ingested(options)
    for number in (5, 6):
        take(store, tmp_path, "uids", [uid(number)])
        made = open_dataset(store, "pool").artifact
        assert ingested(options) and open_dataset(store, "pool").artifact == made
    fresh = tmp_path / "fresh"
    shutil.copytree(Path(store, "takedowns"), fresh / "takedowns")
    assert not ingested(Options(options.recipe, options.overrides, str(fresh)))
    assert images(str(fresh)) == images(store)
    assert states(str(fresh))[uid(5)] == outcomes.BLOCKLISTED
    assert ingested(Options(options.recipe, options.overrides, str(fresh)))
    # What another takedown asks for later also goes from a version that obeyed the first ones.
    take(str(fresh), tmp_path, "uids", [uid(8)])
    assert ingested(Options(options.recipe, options.overrides, str(fresh)))
    assert uid(8) not in images(str(fresh))


def test_a_retry_takes_up_nothing_that_went(tmp_path: Path) -> None:
    """The retried version reads the images of the first where they lie."""
    store = str(tmp_path / "store")
    settings = ("data.fetch.allow_networks=[127.0.0.0/8]", "data.fetch.retries=0",
                "data.fetch.robots_txt=false", *OVERRIDES)  # fmt: skip
    options = Options(None, settings, store)
    with FaultServer() as server:
        urls = [server.url(f"/ok/{n}.jpg") for n in range(10)]
        urls[3] = server.url("/status/503/3.jpg?times=1")
        table = tmp_path / "table.csv"
        table.write_text("\n".join(["url,caption", *(f"{url},one of them" for url in urls)]))
        for again in (options.reading([str(table)]), options.reading(retry_failed="latest")):
            prepared = prepare(again)
            execute(prepared, "ingest", SilentDisplay(), lambda step, session: step.run(session))
        take(store, tmp_path, "urls", [urls[3], urls[4]])
        assert {path.parts[-3] for path in Path(store).rglob("rows/00000.parquet")} >= {
            open_dataset(store, "pool").artifact.digest
        }
        kept = {row["url"] for row in all_rows(open_dataset(store, "pool")) if row["url"]}
        assert kept == {url for url in urls if url not in urls[3:5]}
        assert len(images(store)) == 8
        table_, clean = check(store)
        assert clean, table_
        with pytest.raises(SluiceError, match="no transient failure"):
            prepare(options.reading(retry_failed="latest"))


def test_a_line_that_is_no_row_goes_where_a_listed_url_stands_in_it(tmp_path: Path) -> None:
    store, table = str(tmp_path / "store"), tmp_path / "table.csv"
    listed, other = "http://host1.example.org/a.jpg", "http://host2.example.org/b.jpg"
    with FaultServer() as server:
        good = server.url("/ok/0.jpg")
        table.write_text(f"url,caption\n{good},fine\n{listed},two,more\n{other}\n")
        settings = ("data.fetch.allow_networks=[127.0.0.0/8]", "data.fetch.retries=0",
                    "data.fetch.robots_txt=false", *OVERRIDES)  # fmt: skip

        def rows(*more: str) -> list[tuple[str | None, str | None]]:
            prepared = prepare(Options(None, (*settings, *more), store).reading([str(table)]))
            execute(prepared, "ingest", SilentDisplay(), lambda step, session: step.run(session))
            found = all_rows(open_dataset(store, "pool"))
            return [(row["reason"], row["meta"]) for row in found]

        lines = [f'{{"line":"{listed},two,more"}}', f'{{"line":"{other}"}}']
        assert rows() == [(None, None), *(("bad_line", line) for line in lines)]
        take(store, tmp_path, "domains", ["host1.example.org"])
        kept = ("bad_line", lines[1])
        assert rows() == [(None, None), (outcomes.TAKEN_DOWN, None), kept]
        assert check(store)[1]
        # Made anew, and copied anew: the list is obeyed.
        assert rows("data.rows_per_shard=3") == [(None, None), (outcomes.BLOCKLISTED, None), kept]
    held = b"".join(path.read_bytes() for path in Path(store).rglob("*.parquet"))
    assert b"host2" in held and b"host1" not in held
    assert check(store)[1]


def test_copies_of_text_tables_go_and_come_again_without_it(tmp_path: Path) -> None:
    store, table = str(tmp_path / "store"), tmp_path / "table.csv"
    settings = ("data.fetch.allow_networks=[127.0.0.0/8]", "data.fetch.retries=0",
                "data.fetch.robots_txt=false", *OVERRIDES)  # fmt: skip

    def ingested(*more: str) -> list[str]:
        prepared = prepare(Options(None, (*settings, *more), store).reading([str(table)]))
        result = execute(
            prepared, "ingest", SilentDisplay(), lambda step, session: step.run(session)
        )
        return [timing.name for timing in result.timings if not timing.from_store]

    def texts() -> str:
        files = Path(store, "pool", "tables").glob("*/*.parquet")
        return "".join(str(pq.read_table(file).to_pylist()) for file in files)

    with FaultServer() as server:
        urls = [server.url(f"/ok/{n}.jpg") for n in range(6)]
        table.write_text("\n".join(["url,caption", *(f"{url},number {url[-5]}" for url in urls)]))
        assert ingested() == ["read pool table", "ingest pool"]
        first = all_rows(open_dataset(store, "pool"))
        assert urls[4] in texts()
        copy = next(Path(store, "pool", "tables").iterdir())
        kept = shutil.copytree(copy, tmp_path / "kept")
        told = take(store, tmp_path, "uids", [first[1]["uid"]])
        assert f"removed, a copy of text tables: pool/tables/{copy.name}" in told
        take(store, tmp_path, "urls", [urls[4]])
        assert texts() == "" and ingested() == []  # the version stands, and needs none
        assert ingested("data.rows_per_shard=3") == ["read pool table", "ingest pool"]
    assert [name in texts() for name in ("number 0", "number 1", "number 4", urls[1], urls[4])] == [
        True, False, False, False, False,
    ]  # fmt: skip
    again = all_rows(open_dataset(store, "pool"))
    assert [row["uid"] for row in again] == [row["uid"] for row in first]
    assert [row["reason"] for row in again] == [
        outcomes.BLOCKLISTED if n in (1, 4) else None for n in range(6)
    ]
    assert check(store)[1]
    shutil.copytree(kept, copy)
    table_, clean = check(store)
    assert not clean and f"1 rows of {copy}" in table_


def test_scores_and_explanations_of_a_curated_store(curated_store: Path, tmp_path: Path) -> None:
    """The next run scores nothing again, and what was carried is what it would have computed."""
    store = tmp_path / "store"
    shutil.copytree(curated_store, store)
    curated = all_rows(open_dataset(str(store), "curated"))
    asked = [
        next(row["uid"] for row in curated if row["status"] == state)
        for state in ("ok", "dropped", "rejected")
    ]
    stays = next(row["uid"] for row in reversed(curated) if row["status"] == "ok")
    take(str(store), tmp_path, "uids", asked)
    for name in ("pool", "curated"):
        for each in asked:
            assert states(str(store), name)[each] == outcomes.TAKEN_DOWN
            assert "rejected: taken_down" in explain(Options(None, (), str(store)), each, name)
    told = explain(Options(None, (), str(store)), stays)
    assert f"{stays} in curated@" in told and ": kept" in told and "clip: similarity" in told
    again = {timing.name: timing.from_store for timing in run_small(store, "curate").timings}
    anew = {name for name, stored in again.items() if not stored}
    assert anew <= {"duplicate pairs", "contamination", "verdicts", "curated version"}
    table, clean = check(str(store))
    assert clean, table
    other = tmp_path / "other"
    shutil.copytree(store, other)
    pool = open_dataset(str(other), "pool").artifact
    shutil.rmtree(pool.path("scores"))
    scorers = {scorer.name: scorer for scorer in pixel_scorers()}
    drafts = {
        name: score.score_draft(pool.url, pool.digest, each) for name, each in scorers.items()
    }
    items = [Item(part.name, int(part.name)) for part in pool.parts]
    work = score.ScoreWork(pool.url, scorers)
    for made in run_stage("score", drafts, items, work, InlineRunner(), SilentDisplay()).values():
        carried = artifacts.load(made.url.replace(str(other), str(store)))
        assert carried is not None and carried.manifest == made.manifest


def test_runs_that_saw_it_are_named_before_nobody_can_tell(store: str, tmp_path: Path) -> None:
    pool = open_dataset(store, "pool").artifact
    run = Path(store, "runs", "clip", "0123456789abcdef")
    run.mkdir(parents=True)
    told = {"seed": 0, "shuffle": 8, "sources": [pool.digest],
            "state": {"positions": [30], "bad": []}}  # fmt: skip
    (run / "stream.json").write_text(json.dumps(told))
    times = {row["uid"]: row["times"] for table in seen(str(run)) for row in table.to_pylist()}
    assert "runs/clip/0123456789abcdef has seen 2" in take(store, tmp_path, "uids", [uid(2)])
    [path] = Path(store).glob("takedowns/*/record.json")
    [entry] = json.loads(path.read_bytes())["record"]["runs"]
    assert entry["seen"] == {uid(2): times[uid(2)], uid(3): times[uid(3)]}
    with pytest.raises(SluiceError, match="withdrawn by the takedown") as raised:
        list(seen(str(run)))
    assert str(path) in str(raised.value)


def test_what_is_being_written_is_waited_for_and_what_was_left_goes(
    store: str, tmp_path: Path
) -> None:
    half = Path(store, "pool", "0123456789abcdef")
    (half / "_parts").mkdir(parents=True)
    (half / "_parts" / "00000.json").write_text("{}")
    with pytest.raises(SluiceError, match="is being written"):
        take(store, tmp_path, "uids", [uid(2)])
    pool = open_dataset(store, "pool")  # what must go is hidden meanwhile
    assert len(removals(pool.url)) == 1 and states(store)[uid(2)] is None
    path = tmp_path / "others.txt"
    path.write_text(uid(9))
    with pytest.raises(SluiceError, match="is not finished"):
        main.run(store, main.TakedownOptions(uids=str(path)), INLINE, SilentDisplay())
    long_ago = time.time() - 3600
    os.utime(half / "_parts" / "00000.json", (long_ago, long_ago))
    assert "pool/0123456789abcdef" in take(store, tmp_path, "uids", [uid(2)])
    assert not half.exists() and check(store)[1]


def test_a_record_that_was_changed_and_what_was_put_back_are_told(
    store: str, tmp_path: Path
) -> None:
    tar = Path(open_dataset(store, "pool").artifact.url, "shards", "00000.tar")
    before = tar.read_bytes()
    take(store, tmp_path, "uids", [uid(2)], "first")
    take(store, tmp_path, "uids", [uid(7)], "second")
    assert check(store)[1] and (key_path().stat().st_mode & 0o777) == 0o600
    tar.write_bytes(before)
    table, clean = check(store)
    assert not clean and str(tar) in table
    tar.unlink()
    first = next(path for path in Path(store).glob("takedowns/*/record.json")
                 if json.loads(path.read_bytes())["record"]["reason"] == "first")  # fmt: skip
    genuine = first.read_bytes()
    first.write_bytes(genuine.replace(b'"reason":"first"', b'"reason":"other"'))
    table, clean = check(store)
    assert not clean and "is not as it was signed" in table and "does not follow" in table
    first.write_bytes(genuine)
    first.with_name("list.json").unlink()
    table, clean = check(store, first.parent.name)
    assert not clean and "list.json is gone" in table


def test_a_plan_writes_nothing(store: str, tmp_path: Path) -> None:
    before = everything(Path(store))
    path = tmp_path / "uids.csv"
    path.write_text(f"uid\n{uid(2)}\n")
    asked, said = main.TakedownOptions(uids=str(path)), list[str]()
    told = main.plan(store, asked, INLINE, PlainDisplay(said.append))
    assert "2 rows, 1 of 4 shards to be written anew" in told
    assert everything(Path(store)) == before
    with pytest.raises(SluiceError, match="nothing is named"):
        main.plan(store, main.TakedownOptions(), INLINE, SilentDisplay())
    path.write_text("uid\nnot one\n")
    with pytest.raises(SluiceError, match=r"uids\.csv, line 2"):
        main.plan(store, asked, INLINE, SilentDisplay())


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3() as made:
        yield made


@pytest.mark.slow
def test_a_store_on_s3(s3: S3, tmp_path: Path) -> None:
    store = s3.url("store")
    old = ingest(store, write_table(tmp_path))
    take(store, tmp_path, "uids", [uid(2)])
    assert len(images(store)) == 18 and states(store)[uid(3)] == outcomes.TAKEN_DOWN
    left = [url.removeprefix(f"{old.url}/") for url in filesystem.list_files(old.url)]
    assert left == [f"shards/0000{n}.tar" for n in (1, 2, 3)] + ["withdrawn.json"]
    table, clean = check(store)
    assert clean, table


def collected(store: str) -> str:
    """What gc removes, at once, of all that nobody needs."""
    plan, _ = upkeep.gc(store, upkeep.retention("0", "0", True, True), SilentDisplay(), yes=True)
    return upkeep.gc_text(plan) if plan.removals else ""


def test_a_store_under_a_file_url(store: str, tmp_path: Path) -> None:
    """Listed files have the URLs by which versions name them: else all would be removed."""
    old = open_dataset(store, "pool").artifact
    take(f"file://{store}", tmp_path, "uids", [uid(2)])
    assert len(images(store)) == 18
    assert len([*Path(old.url, "shards").iterdir()]) == 3
    _, clean = check(f"file://{store}")
    assert clean
    assert collected(f"file://{store}") == "" and len(images(store)) == 18


@pytest.mark.long
@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_store_on_a_cloud(cloud: str, tmp_path: Path) -> None:
    table = write_table(tmp_path)
    ingest(str(tmp_path / "here"), table)
    take(str(tmp_path / "here"), tmp_path, "uids", [uid(2)])
    with CLOUDS[cloud]():
        store = f"{cloud}://sluice/store"
        old = ingest(store, table)
        take(store, tmp_path, "uids", [uid(2)])
        assert images(store) == images(str(tmp_path / "here"))
        left = [url.removeprefix(f"{old.url}/") for url in filesystem.list_files(old.url)]
        assert left == [f"shards/0000{n}.tar" for n in (1, 2, 3)] + ["withdrawn.json"]
        told, clean = check(store)
        assert clean, told
        assert collected(store) == "" and len(images(store)) == 18


def flows(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows", "takedown", *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.prefect
@pytest.mark.long
def test_the_command_killed_in_the_middle_is_finished_by_itself(store: str, tmp_path: Path) -> None:
    path = tmp_path / "uids.txt"
    path.write_text(uid(2))
    command = ("--uids", str(path), "--reason", "a letter", "--store", store)
    first = flows(*command)
    deadline = time.monotonic() + 120
    while not list(Path(store).glob("takedowns/*/list.json")):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not list(Path(store).glob("takedowns/*/record.json"))
    told, said = flows(*command).communicate()
    assert "2 uids are taken down" in told and "Traceback" not in said
    assert len(images(store)) == 18
    proof = flows("--verify", "latest", "--store", store)
    assert "REMAINS" not in proof.communicate()[0] and proof.returncode == 0
