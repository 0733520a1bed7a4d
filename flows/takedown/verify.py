"""`--verify`: that a record is genuine, that its list is obeyed, and that nothing remains.

Every check looks at the store itself, not at what the takedown says it did.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curation.fetch.blocklists import Entries
from curation.takedown.check import copies_left, images_left, scores_left, taken_ids
from curation.takedown.find import find
from curation.takedown.list import FOLDER, LIST, read_list, takedown_lists
from curation.takedown.rewrite import all_tars, is_own
from flows.recipe import ExecutionSettings
from flows.takedown.request import finished_takedowns
from flows.takedown.signing import is_genuine, key_path, public_hex, signing_key
from indexes.succession import held
from infra import filesystem
from infra.artifacts import Artifact
from infra.catalogue.versions import versions, withdrawals
from infra.errors import SluiceError
from infra.filesystem import join
from infra.progress import Display
from infra.runner import Runner
from infra.withdrawn import WITHDRAWN_FILE, newest

LATEST = "latest"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. remains: what should not be there; none where all is well."""

    what: str
    looked_at: str
    remains: Sequence[str] = ()


def verify(
    store: str, name: str, deep: bool, where: ExecutionSettings, display: Display
) -> tuple[str, bool]:
    """A table of what was checked, and whether nothing remains of a takedown: its id, or latest.

    deep: the images of all tars are hashed. SluiceError where there is no such record.
    """
    told = _record(store, name)
    with display, where.runner() as runner:
        checks = list(_checks(store, told, deep, runner, display))
    return _table(told["record"], checks), not any(check.remains for check in checks)


def _record(store: str, name: str) -> Mapping[str, Any]:
    done = finished_takedowns(store)
    wanted = done[-1:] if name == LATEST else [url for url in done if url.split("/")[-2] == name]
    if not wanted:
        there = ", ".join(url.split("/")[-2] for url in done) or "none"
        raise SluiceError(
            f"there is no record of the takedown {name!r} in {store}",
            f"name one that is there ({there}); one that was begun is finished by its own command",
        )
    return filesystem.read_json(wanted[0])


def _checks(
    store: str, told: Mapping[str, Any], deep: bool, runner: Runner, display: Display
) -> list[Check]:
    record = told["record"]
    known = [each for each in takedown_lists(store) if each.digest == record["list"]["digest"]]
    lost = [] if known else [f"the list {LIST} is gone, or is not what was signed"]
    checks = [_signatures(store), Check("block list in force", f"{FOLDER}/*/{LIST}", lost)]
    if not known:
        return checks
    entries, there = read_list(known[0]), versions(store)
    found = find(there, entries, runner, display)
    rows = [
        f"{table.num_rows} rows of {'@'.join(url.split('/')[-2:])}"
        for url, table in found.rows.items()
    ]
    checks.append(Check("rows: uid, URL, domain, SHA-256", f"{len(there)} versions", rows))
    count, left = copies_left(store, entries, runner, display)
    checks.append(Check("copies of text tables", f"{count} files", left))
    checks.append(_images(store, record, there, deep, entries, runner, display))
    checks.append(_scores(there, runner, display))
    checks.append(_indexes(there))
    checks.append(_folders(store))
    return checks


def _signatures(store: str) -> Check:
    """Each record genuine, and chained to the one before it."""
    remains: list[str] = []
    previous, keys = None, set[str]()
    done = finished_takedowns(store)
    for number, url in enumerate(done, 1):
        data, told = filesystem.read_bytes(url), filesystem.read_json(url)
        if not is_genuine(told):
            remains.append(f"{url} is not as it was signed")
        record = told["record"]
        if (record["number"], record["previous"]) != (number, previous):
            remains.append(f"{url} does not follow the record before it")
        keys.add(str(record.get("key", ""))[:16])
        previous = hashlib.sha256(data).hexdigest()
    own = public_hex(signing_key())[:16] if key_path().exists() else None
    marks = [f"{key} (yours)" if key == own else key for key in sorted(keys)]
    return Check("signatures and chain", f"{len(done)} records, keys {', '.join(marks)}", remains)


def _images(
    store: str,
    record: Mapping[str, Any],
    there: Sequence[Artifact],
    deep: bool,
    entries: Entries,
    runner: Runner,
    display: Display,
) -> Check:
    """No listed image in the tars of rewritten shards, or in any tar of the store."""
    wanted: set[str] = set()
    if deep:
        wanted = set(filesystem.list_files(join(store, "*", "*", "shards", "*.tar")))
    else:
        for each in record["versions"]:
            name, _, digest = each["new"].partition("@")
            url = newest(join(store, name, digest))
            present = [version for version in there if version.url == url]
            for version in present:
                own = {file.path for part in version.parts for file in part.files}
                tars = all_tars(version, each["shards"])
                tars |= {version.path(path) for path in own if path.startswith("shards/")}
                wanted |= {tar for tar in tars if is_own(store, tar)}
    remains = images_left(sorted(wanted), entries, runner, display)
    return Check("images: SHA-256, MD5", f"{len(wanted)} tars{' (all)' if deep else ''}", remains)


def _scores(there: Sequence[Artifact], runner: Runner, display: Display) -> Check:
    count, remains = scores_left(there, runner, display)
    return Check("scores and vectors of rows taken down", f"{count} files", remains)


def _indexes(there: Sequence[Artifact]) -> Check:
    remains: list[str] = []
    count = 0
    for version in there:
        ids = taken_ids(version)
        for url, number in held(version.url, ids).items():
            count += 1
            if number:
                remains.append(f"the index {url} still holds {number} of them; rebuild it")
    return Check("indexes", f"{count} indexes", remains)


def _folders(store: str) -> Check:
    """Withdrawn versions hold nothing but tars that later ones read there."""
    needed = {tar for version in versions(store) for tar in all_tars(version)}
    remains: list[str] = []
    count = 0
    for url, _ in withdrawals(store):
        count += 1
        files = {*filesystem.list_files(url)} - {join(url, WITHDRAWN_FILE)} - needed
        remains += sorted(files)
    return Check("folders of withdrawn versions", f"{count} folders", remains)


def _table(record: Mapping[str, Any], checks: Sequence[Check]) -> str:
    width = max(len(check.what) for check in checks)
    lines = [f"takedown {record['id']}, {record['time']}: {record['reason'] or 'no reason given'}"]
    for check in checks:
        state = "REMAINS" if check.remains else "ok"
        lines.append(f"  {state:<7}  {check.what:<{width}}  {check.looked_at}")
        lines += [f"           {each}" for each in check.remains]
    lines += [f"  note: a source, left as it is, may still have it: {url}"
              for url in record["outside"]]  # fmt: skip
    return "\n".join(lines)
