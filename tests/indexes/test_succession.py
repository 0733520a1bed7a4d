"""A takedown in a version that is indexed: hidden at once, then in no file of any index."""

from collections.abc import Callable
from pathlib import Path

import pytest

import indexes
from flows.takedown import main as takedowns
from indexes.settings import IndexSettings
from indexes.succession import held
from infra.artifacts import Artifact
from infra.dataset import open_dataset
from infra.errors import SluiceError
from tests.flows.takedowns import check, states, take


@pytest.mark.slow
def test_the_successor_is_searched_without_a_gap(
    new_store: Callable[..., str],
    build: Callable[[str, str, IndexSettings], Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    store = new_store(tmp_path / "store", 2)
    settings = IndexSettings(kind="ivf_sq8", lists=4, publish_below_target=True)
    build(store, "curated", settings)
    idx = indexes.open(f"{store}/curated")
    facts = idx.facts.take(idx.facts.matching("width >= 1"))
    uids = facts["uid"].to_pylist()
    gone, users, vector = uids[10], uids[20], idx.vector(uids[10])
    assert idx.remove([users], "by its author") == 1
    seen: list[bool] = []
    rewrite = takedowns._rewrite

    def watched(*arguments: object) -> None:
        again = indexes.open(f"{store}/curated")  # as the service does, while all is still there
        seen.append(gone in [hit["uid"] for hit in again.search(vector, k=len(again))])
        rewrite(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(takedowns, "_rewrite", watched)
    old = open_dataset(store, "curated").artifact
    take(store, tmp_path, "uids", [gone])
    assert seen == [False, False]
    new = indexes.open(f"{store}/curated")
    assert new.dataset.artifact.settings["takedown"]["id"] and new.dataset.url != old.url
    found = [hit["uid"] for hit in new.search(vector, k=len(uids))]
    assert set(found) == set(uids) - {gone, users} and len(new) == len(uids) - 2
    assert states(store, "curated")[gone] == "taken_down"
    table, clean = check(store)
    assert clean, table
    [[url, number]] = held(new.dataset.url, new._lookup.ids[:3]).items()
    assert url == new.artifact.url and number == 3
    holding = [path for path in Path(new.dataset.url).rglob("*") if path.is_file()]
    assert not [path for path in holding if gone.encode() in path.read_bytes()
                and path.suffix in (".arrow", ".bin", ".npy")]  # fmt: skip
    with pytest.raises(SluiceError, match="withdrawn"):
        indexes.open(f"{store}/curated@{old.digest}")
    grown = settings.model_copy(update={"after": f"curated@{new.dataset.artifact.digest}"})
    with pytest.raises(SluiceError, match="went with an older version"):
        build(store, "curated", grown)
