"""Explain: where a sample came from, what was measured, and why it stayed or went.

Reads the uid column of each shard until the sample is found, then a few rows; no pixel.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation import columns, sql
from curation.dedup import EDGES_FILE, EXACT_KIND, PIXELS_KIND
from curation.rules import column_names, needed_columns, rule_scores
from curation.rules_settings import DUPLICATES
from curation.top import judged_rules
from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.dataset import (
    Dataset,
    index_id,
    open_dataset,
    part_name,
    read_table,
    shard_and_row,
)
from infra.errors import SluiceError
from infra.filesystem import join

KEPT, DROPPED, UNJUDGED = "kept", "dropped", "not judged"
WIDTH = 160  # characters of a caption or a source that are shown
SHOWN = 10  # neighbours, the closest first


@dataclass(frozen=True)
class RuleOutcome:
    """One rule on one row: what it measured, and how that compares."""

    reason: str
    expression: str
    value: float | bool | None
    minimum: float | None
    maximum: float | None
    passed: bool | None  # None: it could not be judged


@dataclass(frozen=True)
class Neighbour:
    """Another row that a stored pair joins to this one."""

    uid: str
    shard: int
    row: int
    kind: str  # "exact", "pixels", "perceptual", or the vectors compared
    similarity: float
    kept: bool
    source: str
    caption: str


@dataclass(frozen=True)
class Selected:
    """What a sampling plan made of a row that verdicts keep."""

    selected: bool
    probability: float  # of being selected: the product along the plan
    cells: tuple[str, ...]  # the concept, value or cell in each selector, in order


@dataclass(frozen=True)
class Explanation:
    """All that the store knows about one row of a dataset."""

    uid: str
    lineage: tuple[str, ...]  # this version and those it was selected from: "curated@0123..."
    shard: int
    position: int  # its row number in the shard
    state: str  # "kept", "dropped", "not judged", or what ingest said: "rejected"
    reasons: tuple[str, ...]  # the first is the one that counts
    row: Mapping[str, Any]  # its row where it was judged: caption, url, ...
    scores: Mapping[str, Mapping[str, Any]]  # scorer -> column -> value
    rules: tuple[RuleOutcome, ...]
    bound: float | None  # the similarity from which a duplicate of its kind goes
    twin_uid: str | None
    twin_similarity: float | None
    neighbours: tuple[Neighbour, ...]
    selection: Selected | None = None  # None: there was none, or verdicts dropped it before


def explain(store: str, uid: str, dataset: str = "curated") -> list[Explanation]:
    """One explanation for every row with this uid in a dataset, or `dataset@version`.

    Raises SluiceError where the dataset or the uid is not there.
    """
    opened = open_dataset(store, dataset)
    places = list(_find(opened, uid))
    if not places:
        raise SluiceError(
            f"no sample {uid!r} in {dataset} ({opened.url})",
            "a uid is 32 hex characters, as in the report and in the rows/ files; "
            "`--dataset pool` looks in another dataset",
        )
    return [_explain(store, opened, uid, shard, row) for shard, row in places]


def _find(dataset: Dataset, uid: str) -> Iterator[tuple[int, int]]:
    wanted = pa.scalar(uid, pa.string())
    for shard in sorted(dataset.shards):
        uids = dataset.rows(shard, ["uid"])["uid"]
        row = uids.index(wanted).as_py()
        while row >= 0:
            yield shard, row
            row = uids.index(wanted, row + 1).as_py()


def _explain(store: str, dataset: Dataset, uid: str, shard: int, row: int) -> Explanation:
    settings = dataset.artifact.settings
    if "of" in settings:
        return _of_subset(store, dataset, uid, shard, row)
    lineage = _lineage(store, dataset)
    curated = "verdicts" in settings and len(lineage) > 1
    # A takedown carried it over, without the verdicts: its own rows still have state and reason.
    decided_before = "takedown" in settings and "scores" in settings and len(lineage) > 1
    origin = lineage[1] if curated else dataset
    facts = origin.rows(shard).slice(row, 1).to_pylist()[0]
    verdict: dict[str, Any] = {}
    rules, neighbours, chosen = (), (), None
    if curated:
        folders = settings["scores"]
        url = join(origin.url, "verdicts", settings["verdicts"])
        decided = columns.artifact_at(url)
        verdict = _row(join(url, f"{part_name(shard)}.parquet"), row)
        if verdict["kept"] and "selection" in settings:
            found = join(origin.url, "selection", settings["selection"])
            entry = _row(join(found, f"{part_name(shard)}.parquet"), row)
            chosen = Selected(entry["selected"], entry["probability"], tuple(entry["cells"]))
            verdict |= {"kept": chosen.selected, "reasons": list(filter(None, [entry["reason"]]))}
        neighbours = _neighbours(origin, url, settings["edges"], index_id(shard, row))
        if facts["status"] == "ok":  # of what ingest rejected no rule was asked
            rules = _rules(origin.url, folders, decided, shard, row)
    else:
        folders = _all_folders(origin.url)
    state = UNJUDGED if not curated else KEPT if verdict["kept"] else DROPPED
    if decided_before:
        state, folders, origin = KEPT, settings["scores"], lineage[1]
    return Explanation(
        uid=uid,
        lineage=tuple(_label(version) for version in lineage),
        shard=shard,
        position=row,
        state=state if facts["status"] == "ok" else facts["status"],
        reasons=tuple(verdict.get("reasons") or filter(None, [facts["reason"]])),
        row=facts,
        scores=_scores(origin.url, folders, shard, row),
        rules=rules,
        bound=verdict["threshold"] if verdict.get("reason") in DUPLICATES else None,
        twin_uid=verdict.get("twin_uid"),
        twin_similarity=verdict.get("twin_similarity"),
        neighbours=neighbours,
        selection=chosen,
    )


def _of_subset(store: str, dataset: Dataset, uid: str, shard: int, row: int) -> Explanation:
    """What was decided in the version that it is a subset of, and whether the row is in it."""
    whole = dataset.artifact.settings["of"]
    parent = open_dataset(store, f"{whole['dataset']}@{whole['version']}")
    found = _explain(store, parent, uid, shard, row)
    own = dataset.rows(shard, ["status", "reason"]).slice(row, 1).to_pylist()[0]
    lineage = (_label(dataset), *found.lineage)
    if found.state not in (KEPT, UNJUDGED):
        return replace(found, lineage=lineage)
    inside = own["status"] == "ok"
    reasons = () if inside else (own["reason"],)
    return replace(found, lineage=lineage, state=KEPT if inside else DROPPED, reasons=reasons)


def _lineage(store: str, dataset: Dataset) -> list[Dataset]:
    """This version, the one it was selected from row by row, and so on."""
    found = [dataset]
    while isinstance(source := found[-1].artifact.settings.get("source"), dict):
        if "version" not in source:
            break
        found.append(open_dataset(store, f"{source['dataset']}@{source['version']}"))
    return found


def _label(dataset: Dataset) -> str:
    name, version = dataset.url.rstrip("/").split("/")[-2:]
    return f"{name}@{version}"


def _row(url: str, row: int) -> dict[str, Any]:
    return read_table(url).slice(row, 1).to_pylist()[0]


def _all_folders(dataset_url: str) -> dict[str, str]:
    """Every committed score folder of a dataset, by its full name."""
    found: dict[str, str] = {}
    for url in filesystem.list_files(join(dataset_url, "scores", "*", artifacts.MANIFEST)):
        folder = url.split("/")[-2]
        found[folder] = folder
    return found


def _scores(
    dataset_url: str, folders: Mapping[str, str], shard: int, row: int
) -> dict[str, dict[str, Any]]:
    return {
        name: _row(columns.columns_url(dataset_url, folder, shard), row)
        for name, folder in sorted(folders.items())
    }


def _rules(
    dataset_url: str, folders: Mapping[str, str], decided: Artifact, shard: int, row: int
) -> tuple[RuleOutcome, ...]:
    """Ask every rule about one row; the verdicts hold only those that failed."""
    rules = judged_rules(decided)
    schemas = columns.column_schemas(dataset_url, folders, shard)
    names = needed_columns(rules, schemas)
    table = columns.read_columns(dataset_url, folders, shard, names).slice(row, 1)
    values = rule_scores(rules, table)
    every = column_names(schemas)
    outcomes: list[RuleOutcome] = []
    for rule in rules:
        value = values[rule.reason][0].as_py()
        if value is None:
            passed = None
        elif rule.score is None:
            passed = not value
        else:
            above = rule.min is None or value >= rule.min
            passed = above and (rule.max is None or value <= rule.max)
        shown = sql.parse(f"rule {rule.reason}", rule.expression, every).sql.replace('"', "")
        outcomes.append(RuleOutcome(rule.reason, shown, value, rule.min, rule.max, passed))
    return tuple(outcomes)


def _neighbours(
    dataset: Dataset, verdicts_url: str, edges_digest: str | None, identifier: int
) -> tuple[Neighbour, ...]:
    """The stored pairs of this row with others, the closest first.

    Rows with equal bytes, and with equal pixels, are stored as a star around one of them, which
    alone has other pairs.
    """
    if edges_digest is None:
        return ()
    edges = read_table(join(dataset.url, "edges", edges_digest, EDGES_FILE))
    centre = identifier
    for kind in (EXACT_KIND, PIXELS_KIND):
        star = edges.filter((pc.field("kind") == kind) & (pc.field("b") == centre))
        centre = star["a"][0].as_py() if star.num_rows else centre
    found: list[tuple[float, int, str]] = []
    joined = edges.filter((pc.field("a") == centre) | (pc.field("b") == centre))
    for edge in joined.to_pylist():
        other = edge["b"] if edge["a"] == centre else edge["a"]
        found.append((edge["similarity"], centre if other == identifier else other, edge["kind"]))
    found.sort(key=lambda pair: (-pair[0], *pair[1:]))
    return tuple(
        _neighbour(dataset, verdicts_url, other, kind, similarity)
        for similarity, other, kind in found[:SHOWN]
    )


def _neighbour(
    dataset: Dataset, verdicts_url: str, identifier: int, kind: str, similarity: float
) -> Neighbour:
    shard, row = shard_and_row(identifier)
    facts = dataset.rows(shard, ["uid", "source", "caption"]).slice(row, 1).to_pylist()[0]
    kept = read_table(join(verdicts_url, f"{part_name(shard)}.parquet"), ["kept"])["kept"][row]
    return Neighbour(
        facts["uid"],
        shard,
        row,
        kind,
        similarity,
        kept.as_py(),
        facts["source"] or "",
        facts["caption"] or "",
    )


def format_explanation(found: list[Explanation]) -> str:
    """The explanations as text for a terminal; control characters are taken out."""
    return "\n\n".join("\n".join(_lines(one)) for one in found)


def _lines(found: Explanation) -> Iterator[str]:
    row = found.row
    state = f"{found.state}: {found.reasons[0]}" if found.reasons else found.state
    yield f"{found.uid} in {found.lineage[0]}: {state}"
    if len(found.reasons) > 1:
        yield f"  also          {', '.join(found.reasons[1:])}"
    yield f"  made from     {' <- '.join(found.lineage)}"
    yield f"  place         shard {part_name(found.shard)}, row {found.position}"
    yield f"  source        {_clean(row['source'])}"
    yield f"  url           {_clean(row['url'])}"
    yield f"  caption       {_clean(row['caption'])}"
    size = f"{row['width']} x {row['height']} pixels, " if row["width"] else ""
    yield f"  file          {row['format'] or 'unknown format'}, {size}{row['bytes']} bytes"
    yield f"  sha256        {row['sha256'] or '-'}"
    if found.rules:
        yield "rules, in order"
        width = max(len(rule.reason) for rule in found.rules)
        for rule in found.rules:
            mark = {True: "passed", False: "FAILED", None: "no value"}[rule.passed]
            yield f"  {mark:<8}  {rule.reason:<{width}}  {_compared(rule)}"
    yield from _duplicate_lines(found)
    if found.selection is not None:
        state = "selected" if found.selection.selected else "not selected"
        cells = "; ".join(_clean(cell) for cell in found.selection.cells)
        yield f"{state}, with probability {found.selection.probability:.4g}"
        yield f"  fell in       {cells or '-'}"
    if found.scores:
        yield "scores"
        for scorer, values in found.scores.items():
            shown = ", ".join(f"{name} {_value(value)}" for name, value in values.items())
            yield f"  {scorer}: {shown}"


def _duplicate_lines(found: Explanation) -> Iterator[str]:
    if found.twin_uid is not None and found.twin_similarity is not None:
        bound = f" (duplicates from {found.bound:g})" if found.bound is not None else ""
        # What a rule dropped may look like a row that was itself dropped.
        stands = "kept twin" if found.reasons[0] in DUPLICATES else "like"
        yield f"{stands} {found.twin_uid}, similarity {found.twin_similarity:.4f}{bound}"
    if found.neighbours:
        yield "closest pairs"
    width = max((len(other.kind) for other in found.neighbours), default=0)
    for other in found.neighbours:
        state = "kept" if other.kept else "not kept"
        caption = _clean(other.caption)
        yield f"  {other.similarity:.4f} {other.kind:<{width}} {other.uid} {state}: {caption}"


def _compared(rule: RuleOutcome) -> str:
    bounds = [f"at least {rule.minimum:g}"] if rule.minimum is not None else []
    bounds += [f"at most {rule.maximum:g}"] if rule.maximum is not None else []
    wanted = f", wanted {' and '.join(bounds)}" if bounds else ""
    return f"{_clean(rule.expression)} is {_value(rule.value)}{wanted}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else _clean(str(value))


def _clean(text: str | None) -> str:
    """One printable line: a caption must not steer the terminal that shows it."""
    if not text:
        return "-"
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return shown if len(shown) <= WIDTH else f"{shown[: WIDTH - 3]}..."
