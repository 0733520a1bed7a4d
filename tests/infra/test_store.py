"""A store is looked through, cleared of what nobody needs, and checked; a killed gc harms none."""

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import artifacts, filesystem, samples
from infra.artifacts import MANIFEST, Artifact, Part, Spec, load
from infra.catalogue import gc
from infra.catalogue.gc import DAY, Plan, Retention, collect, plan_gc
from infra.catalogue.survey import survey
from infra.catalogue.tags import put_tag, read_tags, remove_tag
from infra.catalogue.verify import Damage, verify_store
from infra.dataset import publish
from infra.errors import SluiceError
from infra.filesystem import join, write_bytes
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.samples import Tar
from infra.withdrawn import WITHDRAWN_FILE
from tests.s3 import S3

OLD = 90 * DAY
NOTHING_YOUNG = Retention(older_than=0, unfinished=0)


def make(
    store: str, folder: str, number: int, kind: str = "dataset", parents: tuple[str, ...] = (),
    prefix: str = "", tars: tuple[str, ...] = (), **settings: object,
) -> Artifact:  # fmt: skip
    """A committed artifact with two parts of a few bytes; `tars` are those it uses elsewhere."""
    spec = Spec(kind, "test", {"number": number, **settings}, parents)
    url = join(store, folder, prefix + spec.digest)
    for name in ("00000", "00001"):
        file = write_bytes(url, f"shards/{name}.tar", f"{number} {name}".encode())
        used = [Tar(samples.shorten(url, tar), filesystem.size(tar)) for tar in tars]
        samples.write_tars(url, name, used)
        artifacts.record_part(url, Part(name, (file,), 3, 2, {"blank": 1}), 0.0, 0.0)
    return artifacts.commit(url, spec)


def age(url: str, seconds: float) -> None:
    """Let all files of a folder be so old."""
    then = time.time() - seconds
    for path in [Path(url), *Path(url).rglob("*")]:
        os.utime(path, (then, then))


def damage(store: str, *names: str, quick: bool = False) -> list[Damage]:
    return verify_store(survey(store), InlineRunner(), SilentDisplay(), names, quick)[1]


def swept(store: str, retention: Retention = NOTHING_YOUNG) -> Plan:
    plan = plan_gc(survey(store), retention)
    collect(plan, SilentDisplay())
    return plan


def there(store: str) -> set[str]:
    """The places of all committed artifacts, by their manifests alone."""
    return {str(path.parent.relative_to(store)) for path in Path(store).rglob(MANIFEST)}


def test_what_latest_a_tag_or_a_young_thing_refers_to_stays_and_nothing_else(
    tmp_path: Path,
) -> None:
    store = str(tmp_path)
    pool = make(store, "pool", 1)
    scores = make(store, f"pool/{pool.digest}/scores", 2, "scores", (pool.digest,), "clip-")
    loose = make(store, f"pool/{pool.digest}/scores", 3, "scores", (pool.digest,), "text-")
    kept = make(store, "curated", 4, parents=(pool.digest,), verdicts=f"clip-{scores.digest}")
    publish(store, "curated", kept)
    first = make(store, "pool", 5)
    retried = make(store, "pool", 6, tars=(first.path("shards", "00000.tar"),))
    put_tag(store, "paper", f"pool/{retried.digest}")
    young, forgotten = make(store, "subset", 7), make(store, "subset", 8)
    run = make(store, "runs/clip", 9, "run", (forgotten.digest,))
    unfinished = join(store, "pool", "0" * 16)
    write_bytes(unfinished, "shards/00000.tar", b"half")
    write_bytes(store, "_tmp/of-a-killed-writer", b"")
    age(store, OLD)
    age(young.url, DAY)

    def removed(retention: Retention) -> set[str]:
        return {each.place for each in plan_gc(survey(store), retention).removals}

    litter = {f"pool/{'0' * 16}", "_tmp"}
    assert removed(Retention()) == litter
    assert removed(Retention(older_than=0)) == {*litter, f"subset/{young.digest}"}
    lost = {f"subset/{forgotten.digest}", f"runs/clip/{run.digest}"}
    assert removed(Retention(runs=True)) == litter | lost
    assert removed(Retention(derived=True)) == {*litter, loose.url[len(store) + 1 :]}
    order = [each.place for each in plan_gc(survey(store), Retention(runs=True)).removals]
    assert order.index(f"runs/clip/{run.digest}") < order.index(f"subset/{forgotten.digest}")
    plan = swept(store, Retention(older_than=0, derived=True, runs=True))
    assert plan.bytes == sum(path[1] for path in _sizes(plan))
    assert there(store) == {
        each.url[len(store) + 1 :] for each in (pool, scores, kept, first, retried)
    }
    assert damage(store) == []
    remove_tag(store, "paper")
    assert {each.place for each in swept(store).removals} == {
        f"pool/{first.digest}", f"pool/{retried.digest}"
    }  # fmt: skip
    with pytest.raises(SluiceError, match="no tag paper"):
        remove_tag(store, "paper")


def _sizes(plan: Plan) -> Iterator[tuple[str, int]]:
    for each in plan.removals:
        yield each.place, each.bytes


@dataclass
class World:
    """A random store, and what of it has to stay, known from how it was made."""

    store: str
    needs: dict[str, set[str]] = field(default_factory=dict[str, set[str]])  # place -> places
    inner: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    roots: set[str] = field(default_factory=set[str])

    def stays(self) -> set[str]:
        found: set[str] = set()
        waiting = list(self.roots)
        while waiting:
            place = waiting.pop()
            if place not in found:
                found.add(place)
                waiting += [*self.needs[place], *self.inner.get(place, ())]
        return found


def random_world(store: str, seed: int) -> World:
    """Versions that refer to earlier ones by parents and tars, with scores, runs and pointers."""
    draw = random.Random(seed)
    world = World(store)
    versions: list[Artifact] = []
    every: list[Artifact] = []
    for number in range(draw.randint(2, 7)):
        parents = draw.sample(every, min(len(every), draw.randint(0, 2)))
        lent = draw.sample(versions, min(len(versions), draw.randint(0, 1)))
        tars = tuple(each.path("shards", "00000.tar") for each in lent)
        digests = tuple(each.digest for each in parents)
        made = make(store, draw.choice("ab"), number, parents=digests, tars=tars)
        place = made.url[len(store) + 1 :]
        world.needs[place] = {each.url[len(store) + 1 :] for each in (*parents, *lent)}
        versions.append(made)
        every.append(made)
        if draw.random() < 0.5:
            scores = make(store, f"{place}/scores", number, "scores", (made.digest,), "clip-")
            inner = scores.url[len(store) + 1 :]
            world.needs[inner] = {place}
            world.inner.setdefault(place, set()).add(inner)
            every.append(scores)
        if draw.random() < 0.5:
            index = make(store, f"{place}/index", number, "index", (made.digest,))
            write_bytes(f"{made.url}/index", "latest.json", json.dumps(index.digest).encode())
            inner = index.url[len(store) + 1 :]
            world.needs[inner] = {place}
            world.inner.setdefault(place, set()).add(inner)
    if draw.random() < 0.5:
        learnt = draw.choice(versions)
        run = make(store, "runs/clip", 1, "run", (learnt.digest,)).url[len(store) + 1 :]
        world.needs[run] = {learnt.url[len(store) + 1 :]}
        world.roots.add(run)
    age(store, OLD)
    for name in "ab":
        own = [each for each in versions if each.url.split("/")[-2] == name]
        if own and draw.random() < 0.7:
            publish(store, name, draw.choice(own))
            digest = (Path(store) / name / "latest").read_text()
            world.roots.add(f"{name}/{digest}")
    if draw.random() < 0.5:
        tagged = draw.choice(every).url[len(store) + 1 :]
        put_tag(store, "tag", tagged)
        world.roots.add(tagged)
    write_bytes(join(store, "a", "f" * 16), "_parts/00000.json", b"{}")
    age(join(store, "a", "f" * 16), OLD)
    return world


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32))
def test_of_any_store_all_that_is_needed_stays_whole_and_a_second_gc_finds_nothing(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = random_world(str(tmp_path_factory.mktemp("world")), seed)
    swept(world.store, Retention())
    assert there(world.store) == world.stays()
    assert damage(world.store) == []
    assert plan_gc(survey(world.store), Retention()).removals == []
    assert not (Path(world.store) / "a" / ("f" * 16)).exists()


class Killed(BaseException):
    """What a killed process would not do any more."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the deletion with this number be the last: of a folder only half goes."""
    left = step

    def counted(do: Callable[[str], None], half: Callable[[str], None]) -> Callable[[str], None]:
        def deletion(url: str) -> None:
            nonlocal left
            if left == 0:
                half(url)
                raise Killed
            left -= 1
            do(url)

        return deletion

    def half_of(url: str) -> None:
        files = [path for path in sorted(Path(url).rglob("*")) if path.is_file()]
        for path in files[: len(files) // 2 + 1]:
            path.unlink()

    monkeypatch.setattr(gc, "remove_file", counted(gc.remove_file, lambda url: None))
    monkeypatch.setattr(gc, "remove_folder", counted(gc.remove_folder, half_of))


def test_a_gc_killed_anywhere_leaves_what_exists_whole_and_the_next_one_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = next(
        seed
        for seed in range(1000)
        if len((world := random_world(str(tmp_path / f"{seed}"), seed)).needs) > 6
        and 3 <= len(world.needs) - len(world.stays()) <= 4
    )
    whole, stays = tmp_path / f"{seed}", world.stays()
    for step in count():
        store = tmp_path / f"killed-{step}"
        shutil.copytree(whole, store)
        with monkeypatch.context() as patched:
            killed_at(step, patched)
            try:
                swept(str(store), Retention())
                break
            except Killed:
                pass
        assert damage(str(store)) == []
        left = there(str(store))
        catalogue = survey(str(store))
        parents = {each for place in left for each in catalogue.nodes[place].parents}
        assert parents <= {place[-16:] for place in left}
        swept(str(store), Retention())
        assert there(str(store)) == stays
        assert plan_gc(survey(str(store)), Retention()).removals == []
    assert step >= 2 * (len(world.needs) - len(stays))  # manifest and folder of each


def test_of_a_withdrawn_version_the_tars_go_that_nothing_uses_and_its_record_stays(
    tmp_path: Path,
) -> None:
    store = str(tmp_path)
    old = make(store, "pool", 1)
    new = make(store, "pool", 2, tars=(old.path("shards", "00001.tar"),))
    publish(store, "pool", new)
    (Path(old.url) / MANIFEST).rename(Path(old.url) / WITHDRAWN_FILE)
    age(store, OLD)
    swept(store)
    left = sorted(str(p.relative_to(old.url)) for p in Path(old.url).rglob("*") if p.is_file())
    assert left == ["shards/00001.tar", WITHDRAWN_FILE]
    assert damage(store) == []
    newest = make(store, "pool", 3)
    publish(store, "pool", newest)
    swept(store)
    assert [path.name for path in Path(old.url).rglob("*") if path.is_file()] == [WITHDRAWN_FILE]
    assert plan_gc(survey(store), NOTHING_YOUNG).removals == []


def test_what_others_keep_in_a_store_is_never_touched(tmp_path: Path) -> None:
    store = str(tmp_path)
    for place in ("tars/00000.tar", f"tars/{'1' * 16}/0.tar", f"{'2' * 16}/0.tar", "a/b/c/d.txt"):
        write_bytes(store, place, b"mine")
    write_bytes(join(store, "takedowns", "3" * 16), "record.json", b"{}")  # it leaves a _tmp there
    gone = make(store, "pool", 1)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    swept(store)
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert before - after == {path for path in before if path.is_relative_to(gone.url)}


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    store = str(tmp_path)
    made = make(store, "pool", 1)
    publish(store, "pool", made)
    old = make(store, "pool", 2)
    age(store, OLD)
    writing = join(old.url, "scores", f"clip-{'1' * 16}")
    write_bytes(writing, "columns/00000.parquet", b"half")
    write_bytes(made.url, "_tmp/report", b"half")
    assert plan_gc(survey(store), Retention()).removals == []  # nor the version it is about
    stale = [each.place for each in plan_gc(survey(store), NOTHING_YOUNG).removals]
    assert stale == [writing[len(store) + 1 :], f"pool/{old.digest}", f"pool/{made.digest}/_tmp"]


def test_old_pages_of_runs_and_jobs_that_nobody_waits_for_go_and_none_at_work(
    tmp_path: Path,
) -> None:
    store = str(tmp_path)

    def left(place: str, file: str, seconds: float) -> str:
        write_bytes(join(store, place), file, b"x")
        filesystem.remove_empty(join(store, place, filesystem.TEMPORARY))
        age(join(store, place), seconds)
        return place

    pages = [left(f"status/202601{day:02d}T020000Z-ingest-{day:06x}", "index.html", OLD - day * DAY)
             for day in range(1, 15)]  # fmt: skip
    young = left("status/20260101T000000Z-curate-000000", "index.html", 20 * DAY)
    jobs = [left(f"jobs/sluice-ingest-pool-{number:016x}", "watched.json", number * DAY / 2)
            for number in range(16)]  # fmt: skip
    left(pages[0], "_tmp/of-a-killed-writer", OLD)
    mine = [left("status/mine", "index.html", OLD), left("jobs/mine", "x.json", OLD)]
    plan = plan_gc(survey(store), Retention())
    told = {each.place: each.what for each in plan.removals}
    assert told == dict.fromkeys(pages[:5], "page") | dict.fromkeys(jobs[14:], "job")
    at_once = {each.place for each in plan_gc(survey(store), NOTHING_YOUNG).removals}
    assert at_once == {*pages[:5], *jobs[1:]}  # what was written just now may be at work
    left(pages[1], "index.html", 0)
    left(jobs[15], "watched.json", 0)
    collect(plan, SilentDisplay())
    there = {str(path.relative_to(store)) for path in tmp_path.glob("*/*")}
    assert there == {*pages[1:2], *pages[5:], young, *jobs[:14], jobs[15], *mine}


def test_a_version_named_after_the_plan_was_made_stays(tmp_path: Path) -> None:
    store = str(tmp_path)
    first, second = make(store, "pool", 1), make(store, "pool", 2)
    plan = plan_gc(survey(store), NOTHING_YOUNG)
    assert len(plan.removals) == 2
    publish(store, "pool", first)
    put_tag(store, "mine", f"pool/{second.digest}")
    collect(plan, SilentDisplay())
    assert load(first.url) and load(second.url)


def test_gc_does_not_guess_what_a_broken_manifest_refers_to(tmp_path: Path) -> None:
    made = make(str(tmp_path), "pool", 1)
    (Path(made.url) / MANIFEST).write_text("{")
    with pytest.raises(SluiceError, match="is not JSON"):
        plan_gc(survey(str(tmp_path)), NOTHING_YOUNG)
    assert [each.path for each in damage(str(tmp_path))] == [MANIFEST]


def test_tags_name_one_thing_and_versions_are_found_by_name(tmp_path: Path) -> None:
    store = str(tmp_path)
    first, second = make(store, "pool", 1), make(store, "pool", 2)
    age(first.url, DAY)
    publish(store, "pool", second)
    put_tag(store, "mine", f"pool/{first.digest}")
    put_tag(store, "mine", f"pool/{first.digest}")
    with pytest.raises(SluiceError, match="the tag mine names"):
        put_tag(store, "mine", f"pool/{second.digest}")
    assert read_tags(store) == {"mine": f"pool/{first.digest}"}
    catalogue = survey(store)
    for name in ("mine", "pool~1", f"pool@{first.digest}", f"pool@{first.digest[:6]}", first.url):
        assert catalogue.find(name).digest == first.digest
    assert catalogue.find("pool").digest == second.digest
    for name in ("nothing", "pool~2", "pool@ffff", "../pool"):
        with pytest.raises(SluiceError):
            catalogue.find(name)


def test_verify_names_each_damage(tmp_path: Path) -> None:
    store = str(tmp_path)
    lender, pool = make(store, "pool", 1), make(store, "pool", 2)
    user = make(store, "pool", 3, tars=(lender.path("shards", "00000.tar"),))
    publish(store, "pool", pool)
    assert damage(store) == damage(store, quick=True) == []
    Path(pool.path("shards", "00000.tar")).write_bytes(b"2 00001")  # as long as it was
    Path(pool.path("shards", "00001.tar")).unlink()
    Path(lender.path("shards", "00000.tar")).write_bytes(b"longer than it was")
    (Path(store) / "pool" / "latest").write_text("0" * 16)
    manifest = Path(user.path(MANIFEST))
    manifest.write_text(manifest.read_text().replace('"kept": 4', '"kept": 5'))
    found = {(each.place.rpartition("/")[2], each.path.rpartition("/")[2], each.what.split()[0])
             for each in damage(store)}  # fmt: skip
    assert found == {
        (pool.digest, "00000.tar", "has"), (pool.digest, "00001.tar", "is"),
        (lender.digest, "00000.tar", "has"), (user.digest, "00000.tar", "has"),
        (user.digest, MANIFEST, "does"), ("latest", "", "names"),
    }  # fmt: skip
    quick = {each.path for each in damage(store, f"pool@{pool.digest}", quick=True)}
    assert quick == {"shards/00001.tar"}


@pytest.mark.slow
def test_gc_and_verify_on_an_object_store() -> None:
    with S3() as s3:
        store = s3.url("store")
        first = make(store, "pool", 1)
        kept = make(store, "pool", 2, tars=(first.path("shards", "00000.tar"),))
        gone = make(store, "pool", 3)
        scores = make(store, f"pool/{gone.digest}/scores", 4, "scores", (gone.digest,), "clip-")
        publish(store, "pool", kept)
        put_tag(store, "mine", f"pool/{first.digest}")
        half = s3.files().call_s3("create_multipart_upload", Bucket="sluice", Key="store/pool/x/1")
        s3.files().call_s3("create_multipart_upload", Bucket="sluice", Key="elsewhere/1")
        assert half and damage(store) == damage(store, quick=True) == []
        plan = plan_gc(survey(store), Retention())
        assert [each.what for each in plan.removals] == ["upload"]  # for moto all began in 2010
        assert [each.what for each in swept(store).removals] == ["scores", "version", "upload"]
        assert load(gone.url) is None and load(scores.url) is None
        assert not filesystem.exists(gone.url)
        assert s3.unfinished() == ["elsewhere/1"]
        assert swept(store).removals == [] == damage(store)
        s3.files().rm(kept.path("shards", "00001.tar"))
        (lost,) = damage(store, quick=True)
        assert (lost.path, lost.what) == ("shards/00001.tar", "is gone")
