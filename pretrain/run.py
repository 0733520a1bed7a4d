"""A training run as an artifact: its draft, and the way from draft to committed run."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from infra import artifacts, filesystem
from infra.artifacts import Artifact, Spec
from infra.errors import SluiceError
from infra.filesystem import join
from infra.progress import Display, Pulse
from infra.stage import Draft
from pretrain.columns import check_given, find_folder
from pretrain.data import Source, open_source
from pretrain.evaluate.sources import locate
from pretrain.job import WORK, Job
from pretrain.mix import Weight, counts, shares
from pretrain.settings import TrainSettings

# The files of a run's folder: weights, and what says of which network.
NETWORKS = {
    "open_clip_model.safetensors": "open_clip_config.json",
    "model.safetensors": "config.json",
}
CODE = 2  # raised when the same settings on the same data give other bytes


def run_draft(
    store: str,
    name: str,
    settings: TrainSettings,
    source_digests: Mapping[str, str],
    weights: Mapping[str, Weight] | None = None,
) -> Draft:
    """The run `<store>/runs/<name>/<digest>` to be, before anything of it exists.

    source_digests: digest of each dataset version, by any name; weights: its share of the
    samples seen by the same name (see `pretrain.mix`), equal where not given. The names do not
    enter the digest.
    """
    if weights is not None and set(weights) != set(source_digests):
        raise SluiceError(
            f"run {name}: shares are given for {sorted(weights)}, sources are "
            f"{sorted(source_digests)}",
            "give each source one share",
        )
    check_given(settings.options.reads(), settings.columns)
    mix = _mix(
        [(digest, weights[key] if weights else 1.0) for key, digest in source_digests.items()]
    )
    counted = {digest for digest, _ in mix}
    named = {key: digest for key, digest in source_digests.items() if digest in counted}
    identity: dict[str, Any] = {**settings.identity(_network, named), "mix": mix}
    if settings.pretrained:
        identity["pretrained"] = _fingerprint(settings.pretrained)
    spec = Spec(
        "run", f"pretrain.{settings.objective}", identity, tuple(digest for digest, _ in mix), CODE
    )
    return Draft(join(store, "runs", name, spec.digest), spec)


def _mix(pairs: Sequence[tuple[str, Weight]]) -> list[list[Any]]:
    """[digest, share] of each source that counts, shares summing to 1, in digest order."""
    made = shares([weight for _, weight in pairs])
    return sorted(
        [digest, share]
        for (digest, weight), share in zip(pairs, made, strict=True)
        if counts(weight)
    )


@lru_cache(maxsize=32)
def _hash(path: str, size: int, changed: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(pretrained: str) -> str:
    """What a run's start is: a file by its bytes, a tag by its name."""
    path = Path(pretrained)
    for name in NETWORKS:
        if path.is_dir() and (path / name).is_file():
            path = path / name
    return _file_hash(path) if path.is_file() else pretrained


def _network(stated: str) -> str | list[str]:
    """What another network is: its weights, and the configuration beside them, by their bytes.

    A tag, or a folder on another file system, is its name; that of a run ends with its digest.
    """
    path, weights = Path(stated), _fingerprint(stated)
    folder = path if path.is_dir() else path.parent
    beside = [folder / name for name in NETWORKS.values() if (folder / name).is_file()]
    return [weights, *map(_file_hash, beside)] if path.exists() and beside else weights


def _file_hash(path: Path) -> str:
    state = path.stat()
    return _hash(str(path), state.st_size, state.st_mtime_ns)


def train(
    draft: Draft,
    sources: Sequence[Source],
    settings: TrainSettings,
    launcher: str,
    display: Display,
    address: str = "local",
) -> Artifact:
    """Make the run unless it is there: from its last checkpoint, if one was left.

    launcher: "local", in this process, or "ray", through Ray Train on the Ray at `address`;
    the bytes are the same.
    """
    found = artifacts.load(draft.url)
    if found is not None:
        return found
    if settings.loggers:
        from pretrain import sinks  # PyTorch

        sinks.check(settings.loggers)
    mix = _mix([(open_source(source.url).digest, source.weight) for source in sources])
    if mix != [list(pair) for pair in draft.spec.settings["mix"]]:
        raise SluiceError(
            f"the sources of {draft.url} are {mix}, its draft says {draft.spec.settings['mix']}",
            "make the draft with the digests and shares of these sources",
        )
    if not artifacts.recorded_names(draft.url):
        _launch(draft, sources, settings, launcher, display, address)
    filesystem.remove_tree(join(draft.url, WORK))  # the part is recorded: nothing is lost
    return artifacts.commit(draft.url, draft.spec)


def job_of(draft: Draft, sources: Sequence[Source], settings: TrainSettings) -> Job:
    """The run to do. SluiceError where the samples it is asked about meanwhile are not there.

    Or where score columns of its sources are not for its options.
    """
    for name, url in columns_of(sources, settings.columns):
        found = artifacts.load(url)
        if found is not None:
            settings.options.check_columns(name, url, found.manifest["extra"])
    if settings.evaluate_every:
        store = draft.url.rstrip("/").rsplit("/", 3)[0]
        found = {field: locate(name, store) for field, name in settings.evaluate.places.items()}
        settings = settings.model_copy(update={"evaluate": settings.evaluate.placed(found)})
    return Job(draft.url, draft.spec.digest, settings, tuple(sources))


def columns_of(sources: Sequence[Source], columns: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(name, URL) of the score columns that the sources have of those asked for."""
    for source in sources:
        for name, folder in columns.items():
            if url := find_folder(open_source(source.url), folder):
                yield name, url


def _launch(
    draft: Draft,
    sources: Sequence[Source],
    settings: TrainSettings,
    launcher: str,
    display: Display,
    address: str,
) -> None:
    name = draft.url.rstrip("/").rsplit("/", 2)[-2]
    job = job_of(draft, sources, settings)
    line = display.stage(f"pretrain {name}", settings.steps, "steps")
    done = 0

    def progress(step: int, pulse: Pulse) -> None:
        nonlocal done
        if step > done:  # a replaced worker starts from its checkpoint, a few steps back
            line.advance(step - done, pulse.note, pulse=pulse)
            done = step

    if launcher == "local":
        from pretrain.loop import run

        run(job, progress)
    elif launcher == "ray":
        from pretrain.launch import run_on_ray

        run_on_ray(job, progress, address, display.say)
    else:
        raise SluiceError(f"unknown launcher {launcher!r}", "use ray or local")
    line.finish(f"{settings.steps * settings.batch} samples")
