"""Artifacts: immutable folders that exist when, and only when, their manifest exists.

Everything a stage makes (a dataset version, score columns, verdicts, an index, a run) is an
artifact: part files, one or more per shard, and a `manifest.json` that is put last and only
once. Its digest is made from its specification, so it is known before anything is computed.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from infra import filesystem
from infra.digests import canonical_json, digest
from infra.errors import SluiceError
from infra.filesystem import FilePart, join
from infra.withdrawn import read_withdrawal

MANIFEST = "manifest.json"
TIMING = "timing.json"  # beside the manifest, not in it: clocks differ, bytes must not
PARTS = "_parts"  # records of finished parts, until the manifest holds them
TOGETHER = 4096  # records that are read at once
FORMAT = 1


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


@dataclass(frozen=True, slots=True)
class Part:
    """What one unit of work left: its files, its counts, anything the stage wants kept.

    rows = kept + the sum over `dropped`; `extra` must be a pure function of the inputs.
    """

    name: str
    files: tuple[FilePart, ...]
    rows: int = 0
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lost = self.rows - self.kept - sum(self.dropped.values())
        if lost:
            raise SluiceError(
                f"part {self.name} does not balance: {self.rows} rows in, {self.kept} kept, "
                f"{dict(self.dropped)} dropped, {lost} unaccounted for",
                "this is a defect of the stage; please report it with this message",
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "files": [file.to_json() for file in self.files],
            "rows": self.rows,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "extra": dict(self.extra),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Part":
        files = tuple(FilePart(**file) for file in value["files"])
        return Part(
            value["name"], files, value["rows"], value["kept"], value["dropped"], value["extra"]
        )


@dataclass(frozen=True)
class Artifact:
    """A committed artifact: a URL and the manifest that stands there."""

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
    def parts(self) -> list[Part]:
        return [Part.from_json(part) for part in self.manifest["parts"]]

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
    manifest_url = join(url, MANIFEST)
    try:
        manifest = filesystem.read_json(manifest_url)
    except (FileNotFoundError, NotADirectoryError):
        _refuse_withdrawn(url)
        return None
    except ValueError as error:  # not JSON, or not even text
        raise SluiceError(
            f"{manifest_url} is not JSON: {error}", "remove that folder and run again"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise SluiceError(
            f"{manifest_url} has format {found}, this Sluice reads {FORMAT}",
            "open the store with the Sluice that wrote it",
        )
    return Artifact(url, manifest)


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


Recorded = Mapping[str, tuple[Part, Mapping[str, float]]]  # by name, with seconds and CPU-seconds


def recorded_parts(url: str, names: Iterable[str] | None = None) -> Recorded:
    """The parts a run, perhaps a killed one, has finished so far, by name.

    names: of the parts asked for, by whom they are known: a list of files may be older than
    the last of them.
    """
    found: dict[str, tuple[Part, Mapping[str, float]]] = {}
    known = list(recorded_names(url) if names is None else names)
    files = [join(url, PARTS, f"{name}.json") for name in known]
    for start in range(0, len(files), TOGETHER):
        for data in filesystem.read_many(files[start : start + TOGETHER]):
            if data is None:  # not finished; or another writer has committed, and swept up
                continue
            record = json.loads(data)
            part = Part.from_json(record["part"])
            found[part.name] = (part, record["timing"])
    return found


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
    if not recorded and spec.kind == "dataset" and load(url) is None:
        raise SluiceError(f"nothing to commit at {url}", "give at least one shard")
    parts = [recorded[name][0] for name in sorted(recorded)]
    data = _manifest(spec, parts, dict(extra or {}))
    if load(url) is None:  # else the timing there is that of the writer who was first
        timings = [timing for _, timing in recorded.values()]
        total = {key: sum(timing[key] for timing in timings) for key in ("seconds", "cpu_seconds")}
        try:
            filesystem.write_bytes(url, TIMING, canonical_json(total))
            filesystem.put_if_absent(url, MANIFEST, data)
        except SluiceError:
            if load(url) is None:
                raise  # else another writer was first, and swept our unfinished files up
    if sweep:
        clean(url)
    committed = load(url)
    assert committed is not None
    return committed


def _manifest(spec: Spec, parts: Sequence[Part], extra: dict[str, Any]) -> bytes:
    """The manifest's file. Part by part: as one value 100,000 parts would take 400 MB."""
    dropped: dict[str, int] = {}
    for part in parts:
        for reason, count in part.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    manifest = {
        "format": FORMAT,
        "digest": spec.digest,
        "spec": spec.to_json(),
        "parts": [],
        "totals": {
            "parts": len(parts),
            "rows": sum(part.rows for part in parts),
            "kept": sum(part.kept for part in parts),
            "dropped": dict(sorted(dropped.items())),
            "bytes": sum(file.bytes for part in parts for file in part.files),
        },
        "extra": extra,
        "content": _content(parts, extra),
    }
    data = io.BytesIO()
    before, here, after = _pretty(manifest).partition(b'\n "parts": [')
    data.write(before + here)
    for number, part in enumerate(parts):
        text = b"\n" + _pretty(part.to_json())  # in which every line break is one of layout
        data.write(b"," * bool(number) + text.replace(b"\n", b"\n  "))
    data.write(b"\n " * bool(parts) + after)
    return data.getvalue()


def _pretty(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode()


def _content(parts: Sequence[Part], extra: Mapping[str, Any]) -> str:
    files = sorted((file.path, file.sha256) for part in parts for file in part.files)
    return digest([files, dict(extra)])


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
    made = json.loads(_manifest(Spec(**manifest["spec"]), artifact.parts, manifest["extra"]))
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
