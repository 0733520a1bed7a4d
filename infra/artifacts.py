"""Artifacts: immutable folders that exist when, and only when, their manifest exists.

Everything a stage makes (a dataset version, score columns, verdicts, an index, a run) is an
artifact: part files, one or more per shard, and a `manifest.json` that is put last and only
once. Its digest is made from its specification, so it is known before anything is computed.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from infra import filesystem
from infra.digests import DIGEST_LENGTH, canonical_json, digest
from infra.errors import SluiceError
from infra.filesystem import FilePart, join
from infra.manifest import FORMAT, Part, Parts, read_manifest, write_manifest
from infra.withdrawn import read_withdrawal

MANIFEST = "manifest.json"
TIMING = "timing.json"  # beside the manifest, not in it: clocks differ, bytes must not
PARTS = "_parts"  # records of finished parts, until the manifest holds them
TOGETHER = 4096  # records that are read at once


@dataclass(frozen=True)
class Spec:
    """What makes an artifact what it is; `digest` is its cache key.

    kind: "dataset", "scores", "edges", "verdicts", "index", "run", "evaluation", ...
    stage: the function that makes it, by name; `code` is raised when its output changes.
    settings: JSON-able. parents: digests of the artifacts it is made from.
    """

    kind: str
    stage: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    code: int = 1

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "stage": self.stage,
            "settings": dict(self.settings),
            "parents": list(self.parents),
            "code": self.code,
        }

    @property
    def digest(self) -> str:
        return digest(self.to_json())


@dataclass(frozen=True)
class Artifact:
    """A committed artifact: a URL, and the manifest that stands there but for its parts."""

    url: str
    manifest: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return self.manifest["digest"]

    @property
    def kind(self) -> str:
        return self.manifest["spec"]["kind"]

    @property
    def spec(self) -> Spec:
        spec = self.manifest["spec"]
        return Spec(**{**spec, "parents": tuple(spec["parents"])})

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.manifest["spec"]["settings"]

    @property
    def content(self) -> str:
        """SHA-256 over the names and hashes of all files: equal bytes, equal content."""
        return self.manifest["content"]

    @property
    def parts(self) -> Parts:
        """By name. Read when they are asked for: nobody holds those of 100,000 shards unawares."""
        found = _read(self.url)
        if found is None:
            raise SluiceError(f"{self.path(MANIFEST)} went away", "run the same command again")
        return found[1]

    @property
    def totals(self) -> Mapping[str, Any]:
        return self.manifest["totals"]

    def path(self, *names: str) -> str:
        return join(self.url, *names)

    def open(self, *names: str) -> BinaryIO:
        return filesystem.open_read(self.path(*names))

    def timing(self) -> dict[str, Any]:
        """Seconds and CPU-seconds this artifact took, summed over parts; empty if unknown."""
        url = self.path(TIMING)
        return filesystem.read_json(url) if filesystem.exists(url) else {}


def load(url: str) -> Artifact | None:
    """The artifact at `url`, or None while it has not been committed.

    SluiceError for a version that a takedown withdrew: it says which one took its place.
    """
    found = _read(url)
    return None if found is None else Artifact(url, found[0])


def _read(url: str) -> tuple[dict[str, Any], Parts] | None:
    manifest_url = join(url, MANIFEST)
    try:
        data = filesystem.read_bytes(manifest_url)
    except (FileNotFoundError, NotADirectoryError):
        _refuse_withdrawn(url)
        return None
    return read_manifest(manifest_url, data)


def _refuse_withdrawn(url: str) -> None:
    """One question more, and only where there is no manifest."""
    found = read_withdrawal(url)
    if found is not None:
        name, version = url.rstrip("/").split("/")[-2:]
        raise SluiceError(
            f"{name}@{version} was withdrawn by the takedown {found.takedown}",
            f"use {name}@{found.successor}, which took its place; it holds what may still be used",
        )


def record_part(url: str, part: Part, seconds: float, cpu_seconds: float) -> None:
    """Note a finished part, after its files: a later run will not do it again."""
    timing = {"seconds": seconds, "cpu_seconds": cpu_seconds}
    data = canonical_json({"part": part.to_json(), "timing": timing})
    filesystem.write_bytes(url, f"{PARTS}/{part.name}.json", data)


@dataclass(frozen=True)
class Recorded:
    """The parts a run, perhaps a killed one, has finished so far, by name; what they took."""

    parts: Parts
    timing: Mapping[str, float]  # seconds and CPU-seconds


def recorded_parts(url: str, names: Iterable[str] | None = None) -> Recorded:
    """Read the records of finished parts.

    names: of the parts asked for, by whom they are known: a list of files may be older than
    the last of them.
    """
    asked = sorted(recorded_names(url) if names is None else names)
    timing = {"seconds": 0.0, "cpu_seconds": 0.0}

    def read() -> Iterator[Part]:
        for start in range(0, len(asked), TOGETHER):
            files = [join(url, PARTS, f"{name}.json") for name in asked[start : start + TOGETHER]]
            for data in filesystem.read_many(files):
                if data is None:  # not finished; or another writer has committed, and swept up
                    continue
                record = json.loads(data)
                for key in timing:
                    timing[key] += record["timing"][key]
                yield Part.from_json(record["part"])

    return Recorded(Parts.of(read()), timing)


def recorded_names(url: str) -> set[str]:
    """The names of those parts, for which nothing is read."""
    files = filesystem.list_files(join(url, PARTS))
    return {file.rpartition("/")[2].removesuffix(".json") for file in files}


def commit(
    url: str,
    spec: Spec,
    extra: Mapping[str, Any] | None = None,
    recorded: Recorded | None = None,
    *,
    sweep: bool = True,
) -> Artifact:
    """Put the manifest over the recorded parts; of two writers at once, one wins.

    `extra` goes into the manifest: figures of the whole, pure functions of the inputs.
    `recorded` spares who has read the parts from reading them again. `sweep=False` leaves
    `clean` to the caller.
    """
    if recorded is None:
        recorded = recorded_parts(url)
    if not recorded.parts and spec.kind == "dataset" and load(url) is None:
        raise SluiceError(f"nothing to commit at {url}", "give at least one shard")
    if load(url) is None:  # else the timing there is that of the writer who was first
        head = _head(spec, recorded.parts, dict(extra or {}))
        try:
            filesystem.write_bytes(url, TIMING, canonical_json(recorded.timing))
            filesystem.put_if_absent(url, MANIFEST, write_manifest(head, recorded.parts))
        except SluiceError:
            if load(url) is None:
                raise  # else another writer was first, and swept our unfinished files up
    if sweep:
        clean(url)
    committed = load(url)
    assert committed is not None
    return committed


def _head(spec: Spec, parts: Parts, extra: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest but for its parts, which are looked at one by one."""
    rows = kept = size = 0
    dropped: dict[str, int] = {}
    files: list[str] = []
    for part in parts:
        rows, kept = rows + part.rows, kept + part.kept
        for reason, count in part.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
        for file in part.files:
            size += file.bytes
            files.append(f"{file.path}\0{file.sha256}")
    return {
        "format": FORMAT,
        "digest": spec.digest,
        "spec": spec.to_json(),
        "totals": {
            "parts": len(parts),
            "rows": rows,
            "kept": kept,
            "dropped": dict(sorted(dropped.items())),
            "bytes": size,
        },
        "extra": dict(extra),
        "content": _content(files, extra),
    }


def _content(files: list[str], extra: Mapping[str, Any]) -> str:
    """`digest([[[path, sha256], ...], extra])`, by path, but without a value of a million files.

    files: path, NUL and SHA-256 of each.
    """
    sha256, between = hashlib.sha256(b"[["), b""
    for file in sorted(files):
        sha256.update(between + canonical_json(file.rsplit("\0", 1)))
        between = b","
    sha256.update(b"]," + canonical_json(dict(extra)) + b"]")
    return sha256.hexdigest()[:DIGEST_LENGTH]


def clean(url: str) -> None:
    """Remove what only an unfinished artifact needs."""
    filesystem.remove_tree(join(url, PARTS))
    filesystem.remove_tree(join(url, filesystem.TEMPORARY))


def clean_after_kill(url: str) -> None:
    """`clean` a committed artifact whose maker was killed before it could; parts tell.

    Where there are none nothing is touched: somebody may be writing a report into it.
    """
    if filesystem.exists(join(url, PARTS)):
        clean(url)


def verify(artifact: Artifact) -> list[str]:
    """The paths of files that are gone or are not what the manifest says; [] when all is well.

    The manifest itself is named where its digest, content or totals do not follow from the rest.
    """
    damaged = [] if manifest_holds(artifact) else [MANIFEST]
    for part in artifact.parts:
        damaged += damaged_files(artifact.url, part.files)
    return damaged


def manifest_holds(artifact: Artifact) -> bool:
    """Whether digest, totals and content follow from the rest of the manifest."""
    manifest = artifact.manifest
    made = _head(Spec(**manifest["spec"]), artifact.parts, manifest["extra"])
    return all(manifest[key] == made[key] for key in ("digest", "totals", "content"))


def damaged_files(url: str, files: Sequence[FilePart]) -> list[str]:
    """The paths of those files of the artifact at `url` that are gone or have other bytes."""
    return [file.path for file in files if _sha256(join(url, file.path)) != file.sha256]


def _sha256(url: str) -> str | None:
    """The SHA-256 of a file, None where there is none."""
    sha256 = hashlib.sha256()
    try:
        with filesystem.open_read(url) as raw:
            while block := raw.read(2**20):
                sha256.update(block)
    except FileNotFoundError:
        return None
    return sha256.hexdigest()
