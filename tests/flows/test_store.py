"""The commands that look after a store, on small ones that real recipes made."""

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import cli
from flows.store.changed import flat
from flows.store.diff import Diff, diff
from flows.store.funnel import LIMIT, funnel_change
from flows.store.lineage import lineage, reduced
from flows.store.page import write_diff_page
from flows.store.spread import ks_distance
from flows.store.states import ABSENT, movements
from flows.store.text import seconds
from flows.store.trace import trace
from infra import artifacts
from infra.artifacts import Part, Spec
from infra.catalogue.survey import survey
from infra.dataset import REPEATING, ROWS, Dataset, open_dataset, part_name, write_table
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from tests.data.kept import KEPT, unpack
from tests.data.store_v1 import make
from tests.flows.test_cli import call

ROOT = Path(__file__).parents[2]
STRICTER = ("curate.rules.unlike.min=-0.5", "curate.dedup.near.0.threshold=0.97")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pool, two curated versions of it by other rules, and a run on the first.

    What today's code would make just so is taken from a kept store.
    """
    folder = tmp_path_factory.mktemp("made")
    unpack(KEPT[0], folder)
    make(folder, ("pretrain",))
    return str(make(folder, ("curate",), *STRICTER))


@pytest.fixture(scope="module")
def found(store: str) -> Diff:
    return diff(store, "curated~1", "curated", SilentDisplay())


def test_diff_tells_what_moved_and_which_setting_did_it(found: Diff, store: str) -> None:
    assert {(each.key, each.old, each.new) for each in found.settings} == {
        ("verdicts.rules.unlike.min", -1.0, -0.5),
        ("verdicts.dedup.near.descriptor/pixels.threshold", 0.95, 0.97),
    }
    states = [_states(open_dataset(store, name.label)) for name in _versions(store)]
    expected = Counter((states[0][uid], states[1][uid]) for uid in states[0])
    moved = {(each.before, each.after): each.count for each in found.movements.moved}
    assert moved == {pair: count for pair, count in expected.items() if pair[0] != pair[1]}
    assert found.movements.before == len(states[0])
    columns = {each.column for each in found.shifts}
    assert columns >= {"clip.similarity", "image.width", "rows.bytes"}
    assert {each.column for each in found.shares} >= {"format", "language.code"}
    text = str(found)
    for told in ("short_caption", "verdicts.rules.unlike.min", "for example"):
        assert told in text


def _versions(store: str) -> list[Any]:
    catalogue = survey(store)
    return [catalogue.find(name) for name in ("curated~1", "curated")]


def _states(version: Dataset) -> dict[str, str]:
    rows = [row for shard in version.shards for row in version.rows(shard).to_pylist()]
    return {row["uid"]: "kept" if row["status"] == "ok" else row["reason"] for row in rows}


def test_a_version_does_not_differ_from_itself(store: str) -> None:
    same = diff(store, "curated", "curated", SilentDisplay())
    assert (same.movements.moved, same.settings) == ([], [])
    assert not any(each.distance or each.beyond_chance for each in same.shifts)
    with pytest.raises(SluiceError, match="no dataset version but run"):
        run = next(node.place for node in survey(store).nodes.values() if node.kind == "run")
        diff(store, "curated", run, SilentDisplay())


def test_the_page_of_a_diff_escapes_what_strangers_wrote(found: Diff, tmp_path: Path) -> None:
    from dataclasses import replace

    hostile = "<script>alert(1)</script>"
    changed = [replace(each, new=hostile) for each in found.settings]
    path = write_diff_page(replace(found, settings=changed), str(tmp_path / "diff.html"))
    page = Path(path).read_text()
    assert hostile not in page and "&lt;script&gt;" in page
    assert "verdicts.rules.unlike.min" in page
    assert page.count("<figure") == sum(each.distance > 0 for each in found.shifts[:8])
    assert [each.name for each in tmp_path.iterdir()] == ["diff.html"]


def version(store: Path, number: int, rows: Sequence[tuple[str, str]], per_shard: int) -> Dataset:
    """A version of rows (uid, state), without images."""
    url, states = str(store / "made" / f"{number:016x}"), Counter(state for _, state in rows)
    for shard, start in enumerate(range(0, len(rows), per_shard)):
        chunk = rows[start : start + per_shard]
        table = pa.Table.from_pylist(
            [
                {"uid": uid, "shard": shard, "row": row,
                 "status": "ok" if state == "kept" else "dropped",
                 "reason": None if state == "kept" else state}
                for row, (uid, state) in enumerate(chunk)
            ],
            schema=ROWS,
        )  # fmt: skip
        name, counts = part_name(shard), Counter(state for _, state in chunk)
        file = write_table(url, f"rows/{name}.parquet", table, REPEATING)
        kept = counts.pop("kept", 0)
        artifacts.record_part(url, Part(name, (file,), len(chunk), kept, counts), 0.0, 0.0)
    assert states.total() == len(rows)
    return Dataset(artifacts.commit(url, Spec("dataset", "test", {"number": number})))


def test_movements_are_those_of_a_plain_join_however_the_rows_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.store.states.ROWS_AT_ONCE", 100)  # several pieces
    draw = random.Random(0)
    uids = [f"{draw.getrandbits(128):032x}" for _ in range(1500)]
    names = ("kept", "blank", "corrupt")
    sides = [
        [(uid, draw.choice(names)) for uid in draw.sample(uids, 1200)]
        + [(uid, "kept") for uid in draw.sample(uids, 30)]  # some of them twice
        for _ in range(2)
    ]
    versions = [version(tmp_path, side, sides[side], 170 + 60 * side) for side in (0, 1)]
    changes = tmp_path / "changes.parquet"
    found = movements(*versions, changes=str(changes))
    best = [
        {uid: min((s for u, s in side if u == uid), key=lambda s: (s != "kept", s))
         for uid in {uid for uid, _ in side}}
        for side in sides
    ]  # fmt: skip
    pairs = {uid: (best[0].get(uid, ABSENT), best[1].get(uid, ABSENT))
             for uid in best[0].keys() | best[1].keys()}  # fmt: skip
    expected = Counter(pair for pair in pairs.values() if pair[0] != pair[1])
    assert {(each.before, each.after): each.count for each in found.moved} == expected
    assert all(pairs[uid] == (each.before, each.after)
               for each in found.moved for uid in each.examples)  # fmt: skip
    assert (found.before, found.after) == (len(best[0]), len(best[1]))
    written = pq.read_table(changes).to_pylist()
    assert {row["uid"]: (row["from"], row["to"]) for row in written} == {
        uid: pair for uid, pair in pairs.items() if pair[0] != pair[1]
    }


def totals(**counts: int) -> dict[str, Any]:
    kept = counts.pop("kept")
    return {"rows": kept + sum(counts.values()), "kept": kept, "dropped": counts}


def test_the_statistic_of_a_funnel_is_the_one_that_is_stated() -> None:
    old = [totals(kept=800, blank=200), totals(kept=840, blank=160), totals(kept=880, blank=120)]
    blank = next(each for each in funnel_change(old, totals(kept=600, blank=400))
                 if each.state == "blank")  # fmt: skip
    # m = 0.16, s = 0.04, and the error of one more share is s sqrt(1 + 1/3)
    assert blank.statistic == pytest.approx(0.24 / (0.04 * (4 / 3) ** 0.5))
    assert (blank.share, blank.expected, blank.far) == (0.4, pytest.approx(0.16), True)
    (one, *_) = funnel_change([totals(kept=90, blank=10)], totals(kept=80, blank=20))
    share = 30.5 / 201
    assert abs(one.statistic) == pytest.approx(
        0.1 / (share * (1 - share) * 2 / 100) ** 0.5, rel=0.2
    )
    assert funnel_change([], totals(kept=1)) == []
    new = funnel_change([totals(kept=1000)] * 3, totals(kept=900, leak=100))
    assert {each.state for each in new if each.far} == {"kept", "leak"}


def test_a_funnel_that_only_varies_by_chance_raises_no_alarm_and_one_that_moved_does() -> None:
    draw = np.random.default_rng(0)

    def run(share: float) -> dict[str, Any]:
        dropped = int(draw.binomial(2000, min(max(share + draw.normal(0, 0.01), 0), 1)))
        return totals(kept=2000 - dropped, blank=dropped)

    alarms = [any(each.far for each in funnel_change([run(0.2) for _ in range(10)], run(0.2)))
              for _ in range(400)]  # fmt: skip
    caught = [any(each.far for each in funnel_change([run(0.2) for _ in range(10)], run(0.32)))
              for _ in range(400)]  # fmt: skip
    assert LIMIT == 4 and sum(alarms) <= 4 and sum(caught) >= 396


def test_small_things(tmp_path: Path) -> None:
    assert ks_distance(np.arange(4.0), np.arange(4.0)) == 0
    assert ks_distance(np.arange(4.0), np.arange(10.0, 14.0)) == 1
    assert ks_distance(np.array([1.0, 2, 3, 4]), np.array([3.0, 4, 5, 6])) == 0.5
    assert flat({"a": [{"reason": "x", "min": 1}], "b": [1, 2]}) == {
        "a.x.reason": "x", "a.x.min": 1, "b": [1, 2]
    }  # fmt: skip
    assert (seconds("90m", ""), seconds("1.5d", ""), seconds("0", "")) == (5400, 129600, 0)
    with pytest.raises(SluiceError, match="--older-than 3 is no age"):
        seconds("3", "--older-than")
    edges = {"a": ["b", "c", "d"], "b": ["c"], "c": ["d"], "d": []}
    assert reduced(edges, "a") == {"a": ["b"], "b": ["c"], "c": ["d"], "d": []}


def test_lineage_goes_back_to_the_sources_and_on_to_what_was_made(store: str) -> None:
    run = next(node for node in survey(store).nodes.values() if node.kind == "run")
    kin = lineage(store, run.place, SilentDisplay(), urls=True)
    curated, pool = _versions(store)[0], survey(store).find("pool")
    told = json.loads(kin.to_json())
    assert told["made_of"][run.place] == [curated.place]
    source = told["artifacts"][pool.place]["source"]
    assert source["fingerprint of its bytes"] and source["rows with a URL"] == 12
    assert [place for place, each in told["artifacts"].items() if "source" in each] == [pool.place]
    on = lineage(store, "pool")
    assert run.place in json.loads(on.to_json())["made_into"][curated.place]
    assert str(on).count(f"{curated.label}  ") == 1 and run.place in str(on)


def test_a_sample_is_followed_through_versions_and_runs(store: str) -> None:
    states = _states(open_dataset(store, _versions(store)[0].label))
    kept = next(uid for uid, state in states.items() if state == "kept")
    gone = next(uid for uid, state in states.items() if state == "not_an_image")
    seen = trace(store, kept, SilentDisplay())
    assert {each.version.partition("@")[0] for each in seen.held} == {"pool", "curated"}
    first = seen.held[0]
    assert first.url.startswith("https://images") and ".tar#" in first.source
    (saw,) = seen.saw
    from pretrain.seen import seen as samples_of

    (times,) = [
        row["times"] for table in samples_of(f"{store}/{saw.run}") for row in table.to_pylist()
        if row["uid"] == kept
    ]  # fmt: skip
    assert saw.times == times
    assert trace(store, gone, SilentDisplay()).saw == []
    with pytest.raises(SluiceError, match="no version"):
        trace(store, "0" * 32, SilentDisplay())


def test_verify_says_what_is_damaged_and_what_makes_it_again(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    inline = ("--store", str(copy), "--set", "run.executor=inline")
    assert call("verify", *inline) == 0
    node = survey(str(copy)).find("curated")
    rows = copy / node.place / "rows" / "00000.parquet"
    data = bytearray(rows.read_bytes())
    data[len(data) // 2] ^= 1
    rows.write_bytes(data)
    assert call("verify", "--quick", *inline) == 0
    capsys.readouterr()
    assert call("verify", *inline) == cli.FAILED
    told = capsys.readouterr().out
    assert f"{node.label}: rows/00000.parquet has other bytes" in told
    assert f"remove {copy}/{node.place} and run `prefect run curate`" in told


def test_gc_first_tells_and_then_does(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    old, new = (node.label for node in _versions(str(copy)))
    now = ("--older-than", "0", "--unfinished", "0", "--store", str(copy))
    assert call("gc", *now) == 0  # a run learnt from the old one
    assert "nothing to remove" in capsys.readouterr().out
    before = sorted(copy.rglob("*"))
    assert call("gc", "--runs", *now) == 0
    told = capsys.readouterr().out
    assert old in told and new not in told and "with --yes" in told
    assert sorted(copy.rglob("*")) == before
    assert call("tag", "paper", old, "--store", str(copy)) == 0
    assert call("tag", "--store", str(copy)) == 0
    assert f"paper  {old}" in capsys.readouterr().out
    assert call("gc", "--runs", "--yes", *now) == 0 and old in survey(str(copy)).find("paper").label
    assert call("tag", "paper", "--remove", "--store", str(copy)) == 0
    assert call("gc", "--runs", "--yes", *now) == 0
    assert {node.label for node in survey(str(copy)).versions("curated")} == {new}
    assert call("verify", "--store", str(copy), "--set", "run.executor=inline") == 0
    capsys.readouterr()


@pytest.mark.slow
def test_a_gc_that_is_killed_is_ended_by_the_next(store: str, tmp_path: Path) -> None:
    """A real process, killed while it removes."""
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    now = ["--older-than", "0", "--unfinished", "0", "--runs", "--yes", "--store", str(copy)]
    script = (
        "import os, shutil, signal, sys\n"
        "from pathlib import Path\n"
        "from flows.cli import app\n"
        "rmtree, left = shutil.rmtree, int(sys.argv[1])\n"
        "def killed(path, **more):\n"
        "    global left\n"
        "    files = [each for each in sorted(Path(path).rglob('*')) if each.is_file()]\n"
        "    if files and not left:\n"
        "        files[0].unlink()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    left -= bool(files)\n"
        "    rmtree(path, **more)\n"
        "shutil.rmtree = killed\n"
        f"app({['gc', *now]!r})\n"
    )
    check = ("verify", "--store", str(copy), "--set", "run.executor=inline")
    for left in ("0", "2"):
        run = subprocess.run([sys.executable, "-c", script, left], cwd=ROOT, check=False)
        assert run.returncode == -9
        assert call(*check) == 0
    assert call("gc", *now) == call(*check) == 0
    assert len(survey(str(copy)).versions("curated")) == 1


@pytest.mark.prefect
def test_the_flows_of_gc_and_verify_say_the_same_on_their_page_and_fail_on_damage(
    store: str, tmp_path: Path
) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    gone = survey(str(copy)).find("curated").place
    (copy / gone / "rows" / "00000.parquet").unlink()
    before = sorted(copy.rglob("*"))
    script = (
        "import json, sys\n"
        "from flows import environment\n"
        "environment.prepare()\n"
        "from prefect.artifacts import Artifact\n"
        "from flows.prefect_flows import gc, verify\n"
        "at = {'store': sys.argv[1]}\n"
        "gc(older_than='0', unfinished='0', runs=True, **at)\n"
        "ended = verify(quick=True, overrides=['run.executor=inline'], return_state=True, **at)\n"
        "pages = [Artifact.get(key).data for key in ('gc', 'verify')]\n"
        "print(json.dumps([*pages, ended.type.value, ended.message]))\n"
        "environment.quiet_exit()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(copy)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    plan, page, state, message = json.loads(run.stdout)
    assert _versions(str(copy))[0].label in plan and "nothing was removed" in plan
    assert sorted(copy.rglob("*")) == before
    assert state == "FAILED" and "rows/00000.parquet is gone" in message
    assert page.splitlines() == [f"    {line}" for line in message.splitlines()]
