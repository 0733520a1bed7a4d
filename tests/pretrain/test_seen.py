import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from infra import artifacts
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from pretrain import loop
from pretrain.data import Source
from pretrain.job import Job
from pretrain.loop import Trainer
from pretrain.run import run_draft, train
from pretrain.seen import seen


@pytest.fixture
def store(pairs: str, greys: str, tmp_path: Path) -> dict[str, str]:
    """A store with both versions where a store has them; their URLs by digest."""
    urls: dict[str, str] = {}
    for url in (pairs, greys):
        digest = artifacts.load(url).digest  # type: ignore[union-attr]
        place = tmp_path / Path(url).name / digest
        shutil.copytree(url, place)
        urls[digest] = str(place)
    return urls


def told(url: str) -> dict[tuple[str, int], int]:
    """Times by dataset and id."""
    rows = pa.concat_tables(seen(url)).to_pylist()
    assert len({row["uid"] for row in rows}) == len(rows) == 84
    return {(row["source"].split("@")[0], row["id"]): row["times"] for row in rows}


def test_a_run_tells_how_often_it_has_seen_each_sample(
    store: dict[str, str], small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a finished run, and of one that was killed: of that, up to its checkpoint."""
    counted: list[tuple[str, int]] = []
    advance = Trainer.viewed

    def viewed(self: Trainer, batches: Any) -> Any:
        names = [Path(store[digest]).parent.name for digest in self.stream.digests]

        class Noted:
            def next(self) -> Any:
                batch = batches.next()
                counted.extend(
                    (names[source], identifier)
                    for source, identifier in zip(batch.sources, batch.ids, strict=True)
                )
                return batch

        return advance(self, Noted())  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "viewed", viewed)
    settings = small("mae", steps=25)
    weights = dict.fromkeys(store, 1.0)
    draft = run_draft(str(tmp_path), "mine", settings, {each: each for each in store}, weights)
    sources = [Source(url) for url in store.values()]
    job = Job(draft.url, draft.spec.digest, settings, tuple(sources))

    def stop(step: int, note: str) -> None:
        if step == 16:
            raise KeyboardInterrupt

    with pytest.raises(SluiceError, match="neither"):
        list(seen(draft.url))
    with pytest.raises(KeyboardInterrupt):
        loop.run(job, stop)
    found = told(draft.url)
    assert sum(found.values()) == 14 * 8
    assert {key: times for key, times in found.items() if times} == Counter(counted[: 14 * 8])
    del counted[14 * 8 :]
    train(draft, sources, settings, "local", SilentDisplay())
    found = told(draft.url)
    assert {key: times for key, times in found.items() if times} == Counter(counted[: 25 * 8])
    assert found["greys", 5] == 0  # its image does not decode
