"""The parts of a takedown: what matches, how rows come out, which scores are carried."""

import numpy as np
import pyarrow as pa

from curation.fetch.blocklists import KINDS, blocked_row
from curation.outcomes import TAKEN_DOWN
from curation.takedown.find import find
from curation.takedown.list import TakedownList
from curation.takedown.rewrite import taken_down
from curation.takedown.successor import affected, renamed, successors
from infra.artifacts import Artifact, Spec, load
from infra.dataset import ROWS, Dataset
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
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
