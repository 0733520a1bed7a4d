"""The record of a takedown: what was asked, done and seen, signed, and chained to the one before.

<store>/takedowns/<id>/record.json    {"record": {...}, "signature": hex}
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version as installed
from typing import Any

from curation.takedown.list import LIST, members, read_list
from curation.takedown.rewrite import taken_parts
from flows.takedown.request import RECORD, Takedown, list_of
from flows.takedown.signing import signed, signing_key
from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.catalogue.versions import name_of, withdrawals
from infra.filesystem import join

FORMAT = 1


def write_record(takedown: Takedown, removed: Mapping[str, Sequence[str]]) -> str:
    """Sign and keep the record of a takedown whose versions are all withdrawn; a summary of it.

    removed: other folders that went, by what they were.
    """
    record = {
        "format": FORMAT,
        "id": takedown.id,
        "number": takedown.number,
        "previous": takedown.previous,
        "reason": takedown.reason,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "sluice": installed("sluice"),
        "request": dict(takedown.request),
        "list": _list(takedown),
        "versions": _versions(takedown),
        "runs": filesystem.read_json(join(takedown.url, "seen.json")),
        "outside": filesystem.read_json(join(takedown.url, "outside.json")),
        **removed,
    }
    data = signed(record, signing_key())
    filesystem.put_if_absent(takedown.url, RECORD, data)
    filesystem.remove_tree(join(takedown.url, filesystem.TEMPORARY))
    return summary(record, join(takedown.url, RECORD))


def _list(takedown: Takedown) -> dict[str, Any]:
    known = list_of(takedown)
    entries = read_list(known)
    counts = {name: len(members(name, entries)) for name in sorted(entries)}
    return {"file": LIST, "digest": known.digest, "counts": counts}


def _versions(takedown: Takedown) -> list[dict[str, Any]]:
    """Old and new version, rows and shards; what was withdrawn by this takedown tells them."""
    found: list[dict[str, Any]] = []
    for url, withdrawal in withdrawals(takedown.store):
        if withdrawal.takedown == takedown.id:
            new = artifacts.load(join(url.rpartition("/")[0], withdrawal.successor))
            assert new is not None
            found.append({"old": "@".join(url.split("/")[-2:]), "new": name_of(new), **_done(new)})
    return sorted(found, key=lambda each: each["old"])


def _done(new: Artifact) -> dict[str, Any]:
    taken = taken_parts(new)
    return {"rows": sum(taken.values()), "shards": sorted(taken)}


def summary(record: dict[str, Any], url: str) -> str:
    """What a record says, for a terminal."""
    counts = ", ".join(f"{count} {name}" for name, count in record["list"]["counts"].items())
    lines = [f"takedown {record['id']}: {counts} are taken down and refused from now on"]
    lines += [
        f"  {each['old']} -> {each['new']}: {each['rows']} rows of {len(each['shards'])} shards"
        for each in record["versions"]
    ]
    for run in record["runs"]:
        seen = run.get("seen")
        told = f"not known: {run['unknown']}" if seen is None else f"{len(seen)} of them"
        lines.append(f"  checkpoint {run['run']} has seen {told}")
    lines += [f"  a source, left as it is: {url}" for url in record["outside"]]
    lines += [f"  removed, unfinished: {name}" for name in record["unfinished"]]
    lines += [f"  removed, a copy of text tables: {name}" for name in record["copies"]]
    return "\n".join([*lines, f"record: {url}"])
