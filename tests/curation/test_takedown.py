"""The parts of a takedown: what matches, how rows and tars come out, which scores are carried."""

import io
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation.fetch.blocklists import KINDS, blocked_row
from curation.outcomes import TAKEN_DOWN
from curation.takedown.find import find
from curation.takedown.list import TakedownList
from curation.takedown.rewrite import taken_down
from curation.takedown.successor import affected, renamed, successors
from infra.artifacts import Artifact, Spec, load
from infra.dataset import ROWS, Dataset
from infra.errors import SluiceError
from infra.moving import Place, copy_samples
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.shards import TarWriter, read_tar
from tests.curation.conftest import Maker, uid_of

KNOWN = TakedownList("list.json", 1, "f" * 16)


def opened(url: str) -> Artifact:
    found = load(url)
    assert found is not None
    return found


def test_a_match_is_followed_through_all_versions(maker: Maker) -> None:
    """From a uid to its image, from that to another uid, and from that to another version."""
    one = maker.dataset("one", [{"image": b"same"}, {}, {}, {}, {}])
    two = maker.dataset("two", [{"uid": uid_of(7), "image": b"same"}, {"uid": uid_of(8)}])
    three = maker.dataset("three", [{"uid": uid_of(8)}, {"uid": uid_of(7), "rejected": "bad"}])
    versions = [opened(each.url) for each in (one, two, three)]
    asked = {"uids": bytes.fromhex(uid_of(0))}
    found = find(versions, asked, InlineRunner(), SilentDisplay())
    rows = {url: table["uid"].to_pylist() for url, table in found.rows.items()}
    assert rows == {one.url: [uid_of(0)], two.url: [uid_of(7)], three.url: [uid_of(7)]}
    # By domain and URL as block lists compare them, rejected rows too; then on as before.
    wanted = KINDS["urls"].parsed("http://EXAMPLE.org/%31.jpg")
    by_url = find(versions, {"urls": wanted or b""}, InlineRunner(), SilentDisplay())
    assert {url: table["id"].to_pylist() for url, table in by_url.rows.items()} == {
        one.url: [0, 1],
        two.url: [0, 1],
        three.url: [0, 1],
    }
    domain = {"domains": KINDS["domains"].parsed("org") or b""}
    everything = find(versions, domain, InlineRunner(), SilentDisplay())
    assert sum(table.num_rows for table in everything.rows.values()) == 9


def test_a_row_that_goes_says_what_a_blocked_one_says(maker: Maker) -> None:
    made = maker.dataset("one", [{}, {}, {}])
    rows = Dataset(opened(made.url)).rows(0)
    gone = np.array([False, True, False])
    after = taken_down(rows, gone)
    expected = [
        blocked_row(row, TAKEN_DOWN) if each else row
        for row, each in zip(rows.to_pylist(), gone, strict=True)
    ]
    assert after.equals(pa.Table.from_pylist(expected, schema=ROWS))


@pytest.mark.parametrize("window", [2000, 8 * 2**20])
def test_samples_are_copied_member_for_member(
    tmp_path: Path, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.moving.WINDOW", window)
    monkeypatch.setattr("infra.moving.MORE", 600)
    rng, places, kept = random.Random(0), [], []
    buffer = io.BytesIO()
    tar = TarWriter(buffer)
    for number in range(40):
        key, image = f"{number:015d}", rng.randbytes(rng.choice([0, 1, 511, 512, 513, 9000]))
        members = [(f"{key}.jpg", image), (f"{key}.txt", rng.randbytes(rng.choice([0, 3000])))]
        offset = tar.add_all([*members, (f"{key}.json", b"{}")])
        if rng.random() < 0.7:
            places.append(Place(key, offset, len(image)))
            kept.append(key)
    tar.close()
    whole = buffer.getvalue()
    (tmp_path / "a.tar").write_bytes(whole)
    out = io.BytesIO()
    new = TarWriter(out)
    offsets = copy_samples(str(tmp_path / "a.tar"), places, new, 0)
    new.close()
    before = {sample.key: sample for sample in read_tar(io.BytesIO(whole))}
    after = list(read_tar(io.BytesIO(out.getvalue())))
    assert [sample.key for sample in after] == kept
    for sample, offset in zip(after, offsets, strict=True):
        assert sample == before[sample.key] and sample.offsets["jpg"] == offset
    wrong = places[0]._replace(offset=places[1].offset)
    with pytest.raises(SluiceError, match="is damaged"):
        copy_samples(str(tmp_path / "a.tar"), [wrong], TarWriter(io.BytesIO()), 0)


def test_what_is_made_of_a_version_follows_it_and_scores_by_their_digests(maker: Maker) -> None:
    pool = maker.dataset("pool", [{}, {}])
    vectors = {"image": np.eye(2)}
    maker.score(pool, "clip", {"similarity": [0.1, 0.2]}, vectors)
    old, other = opened(pool.url), opened(maker.dataset("other", [{}, {}]).url)
    settings = {"source": {"dataset": "pool", "version": old.digest}, "scores": pool.folders,
                "verdicts": "v" * 16, "name": "kept"}  # fmt: skip
    spec = Spec("dataset", "curation.curate", settings, (old.digest,))
    curated = Artifact(f"{maker.store}/curated/{spec.digest}", {
        "digest": spec.digest, "spec": spec.to_json(),
    })  # fmt: skip
    order = affected([curated, other, old], {old.digest})
    assert order == [old, curated]
    first, second = successors(order, KNOWN, "t")
    assert first.draft.spec.parents == (old.digest,)
    assert second.draft.spec.settings == {
        "source": {"dataset": "pool", "version": first.draft.spec.digest},
        "scores": {},  # made by another stage than those that look at one row at a time
        "name": "kept",
        "takedown": {"id": "t", "list": KNOWN.digest},
    }
    names = {"a" * 16: "b" * 16, "c" * 16: None}
    told = {"x": ["clip-" + "a" * 16, "d" * 16], "y": "c" * 16, "z": None}
    assert renamed(told, names) == {"x": ["clip-" + "b" * 16, "d" * 16], "z": None}
