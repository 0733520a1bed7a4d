import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from infra import artifacts
from infra.errors import SluiceError
from infra.progress import PlainDisplay, SilentDisplay
from infra.stage import Draft
from pretrain import objectives
from pretrain.checkpoint import read_weights
from pretrain.checkpoint_files import KEPT
from pretrain.data import Source
from pretrain.job import WORK
from pretrain.run import run_draft, train


def digest(url: str) -> str:
    artifact = artifacts.load(url)
    assert artifact is not None
    return artifact.digest


def test_a_draft_is_made_of_settings_digests_and_shares_alone(small: Callable[..., Any]) -> None:
    settings = small("mae")
    first = run_draft("store", "mae", settings, {"a": "1" * 16, "b": "2" * 16}, {"a": 7, "b": 3})
    assert first.url == f"store/runs/mae/{first.spec.digest}"
    assert first.spec.kind == "run"
    assert first.spec.parents == ("1" * 16, "2" * 16)
    renamed = run_draft(
        "store", "mae", settings, {"y": "2" * 16, "x": "1" * 16}, {"y": 0.3, "x": 0.7}
    )
    assert renamed.spec.digest == first.spec.digest
    others = [
        run_draft("store", "mae", settings, {"a": "1" * 16, "b": "2" * 16}),
        run_draft("store", "mae", settings, {"a": "1" * 16}),
        run_draft("store", "mae", small("mae", seed=1), {"a": "1" * 16, "b": "2" * 16}),
    ]
    assert len({first.spec.digest, *(draft.spec.digest for draft in others)}) == 4
    slower = small("mae", max_failures=5, checkpoint_every=3)
    again = run_draft("store", "mae", slower, {"a": "1" * 16, "b": "2" * 16}, {"a": 7, "b": 3})
    assert again.spec.digest == first.spec.digest


def test_a_source_of_no_share_is_no_parent(small: Callable[..., Any]) -> None:
    draft = run_draft("s", "m", small("mae"), {"a": "1", "b": "2"}, {"a": 1, "b": 0})
    assert draft.spec.parents == ("1",)


@pytest.mark.parametrize(
    ("digests", "weights", "message"),
    [
        ({}, None, "sums to nothing"),
        ({"a": "1"}, {"a": 0.0}, "sums to nothing"),
        ({"a": "1", "b": "2"}, {"a": 2.0, "b": -1.0}, "sums to nothing"),
        ({"a": "1"}, {"b": 1.0}, r"shares are given for \['b'\]"),
    ],
)
def test_a_mix_that_is_none(
    small: Callable[..., Any], digests: Any, weights: Any, message: str
) -> None:
    with pytest.raises(SluiceError, match=message):
        run_draft("store", "mae", small("mae"), digests, weights)


def test_weights_to_start_from_count_by_their_bytes(
    small: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    drafts = []
    for content in (b"one", b"two"):
        (tmp_path / "model.safetensors").write_bytes(content)
        (tmp_path / "copy.safetensors").write_bytes(content)
        for place in (tmp_path, tmp_path / "copy.safetensors"):
            drafts.append(run_draft("s", "m", small("mae", pretrained=str(place)), {"a": "1"}))
    digests = [draft.spec.digest for draft in drafts]
    assert digests[0] == digests[1] != digests[2] == digests[3]
    tag = run_draft("s", "m", small("mae", pretrained="a-tag"), {"a": "1"})
    assert tag.spec.settings["pretrained"] == "a-tag"


@pytest.fixture
def made(pairs: str, small: Callable[..., Any], tmp_path: Path) -> tuple[Draft, Any]:
    settings = small("mae", steps=9)
    return run_draft(str(tmp_path), "mae", settings, {"pairs": digest(pairs)}), settings


def test_a_run_is_committed_whole_and_made_once(made: tuple[Draft, Any], pairs: str) -> None:
    draft, settings = made
    said: list[str] = []
    run = train(draft, [Source(pairs)], settings, "local", PlainDisplay(said.append))
    assert run.digest == draft.spec.digest
    assert artifacts.verify(run) == []
    left = {path.name for path in Path(run.url).iterdir()}
    assert left - {"alarms.jsonl"} == {  # which a slow machine leaves
        "manifest.json",
        "timing.json",
        "metrics.jsonl",
        "config.json",
        "model.safetensors",
        "stream.json",
        "speed.json",
    }
    assert said[-1].startswith("pretrain mae: 9 steps in")
    config = json.loads(Path(run.url, "config.json").read_text())
    assert config["objective"] == "mae"
    assert config["timm_name"] == "vit_tiny_patch16_224"
    again = train(draft, [Source("gone")], settings, "nobody", PlainDisplay(said.append))
    assert again == run


def test_killed_before_the_commit_nothing_is_trained_again(
    made: tuple[Draft, Any], pairs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, settings = made

    def dies(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pretrain.run.artifacts.commit", dies)
        train(draft, [Source(pairs)], settings, "local", SilentDisplay())
    assert artifacts.load(draft.url) is None
    said: list[str] = []
    run = train(draft, [Source(pairs)], settings, "local", PlainDisplay(said.append))
    assert said == []
    assert not (Path(run.url) / WORK).exists()


def test_the_last_checkpoints_and_the_best_stay_beside_the_run(
    pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    """They are no part of it: it is the one that is made without."""
    manifests: list[bytes] = []
    for keep in (1, 2):
        settings = small("mae", steps=9, checkpoint_every=2, keep_checkpoints=keep)
        draft = run_draft(str(tmp_path / str(keep)), "mae", settings, {"pairs": digest(pairs)})
        run = train(draft, [Source(pairs)], settings, "local", SilentDisplay())
        assert artifacts.verify(run) == []
        manifests.append((Path(run.url) / "manifest.json").read_bytes())
        assert (Path(run.url) / KEPT).exists() == (keep > 1)
    assert manifests[0] == manifests[1]
    records = [json.loads(path.read_text()) for path in (Path(run.url) / KEPT).glob("*.json")]
    steps = sorted(record["step"] for record in records)
    assert steps[-2:] == [6, 8] and len(steps) in (2, 3)
    best = min(records, key=lambda record: record["loss"])
    objective = objectives.build(settings)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.load_state_dict(read_weights(run.url, best["step"]))
    moved = [not torch.equal(before[n], value) for n, value in objective.state_dict().items()]
    assert sum(moved) > 20
    assert {path for path, _ in objective.files()} == {"config.json", "model.safetensors"}
    with pytest.raises(SluiceError, match=r"no checkpoint of step 5, but of \["):
        read_weights(run.url, 5)


def test_other_sources_than_the_drafts_are_refused(
    made: tuple[Draft, Any], pairs: str, greys: str
) -> None:
    draft, settings = made
    for sources in ([Source(greys)], [Source(pairs), Source(greys)]):
        with pytest.raises(SluiceError, match="its draft says"):
            train(draft, sources, settings, "local", SilentDisplay())
    with pytest.raises(SluiceError, match="no dataset version"):
        train(draft, [Source("nowhere")], settings, "local", SilentDisplay())
    with pytest.raises(SluiceError, match="unknown launcher 'slurm'"):
        train(draft, [Source(pairs)], settings, "slurm", SilentDisplay())
    assert artifacts.load(draft.url) is None


def test_training_starts_on_the_ray_it_is_told(
    small: Callable[..., Any], pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(processors: int, address: str) -> None:
        raise SluiceError(f"asked for {address}", "start it")

    monkeypatch.setattr("pretrain.launch.start_ray", refuse)
    settings = small("mae")
    draft = run_draft(str(tmp_path), "mae", settings, {"pairs": digest(pairs)})
    with pytest.raises(SluiceError, match="asked for ray://cluster:1"):
        train(draft, [Source(pairs)], settings, "ray", SilentDisplay(), "ray://cluster:1")
