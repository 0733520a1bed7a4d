"""Canaries: how well each filter finds defects that were planted on purpose.

The key (which uid has which defect) is known to the report alone, never to a stage.

Recall is the share of planted defects that a filter flags, as first reason or later. Precision
is the share of what it flags that deserves it. Rows planted with another defect that rightly
sets the filter off (RIGHTLY) count neither way: a blank image cannot show what its caption says.

Duplicates are judged by pair, since either member may be the one that stays: a pair is caught
when a member is flagged, and a flag is right when its twin comes from the same planted source.
"""

from collections.abc import Collection, Iterable, Mapping

import pyarrow as pa

from curation.rules import list_entries
from curation.rules_settings import EXACT, NEAR, PERCEPTUAL, PIXELS

RESULT = pa.schema(
    [
        ("defect", pa.string()),
        ("reason", pa.string()),  # the filter that is to find it
        ("planted", pa.int64()),  # rows; pairs for duplicates
        ("caught", pa.int64()),
        ("flagged", pa.int64()),  # rows the filter flags, without those that count neither way
        ("recall", pa.float64()),  # caught / planted; null where nothing was planted
        ("precision", pa.float64()),  # right flags / flagged; null where nothing was flagged
    ]
)
PAIRS = (EXACT, NEAR)
# A damaged file may be refused at ingest already, by its first bytes.
REASONS: Mapping[str, tuple[str, ...]] = {
    "corrupt": ("corrupt", "not_an_image", "unsupported_format"),
    NEAR: (NEAR, PERCEPTUAL, PIXELS),  # whichever rung of the ladder comes first
}
NOTHING_TO_SEE = ("blank", "corrupt", "too_small", "extreme_aspect")
RIGHTLY: Mapping[str, tuple[str, ...]] = {
    "mismatched_caption": NOTHING_TO_SEE,
    "too_small": ("extreme_aspect",),  # a strip is as low as it is long, and may
    "blank": ("extreme_aspect",),  # be cut from where there is nothing to see
    EXACT: ("blank",),  # placeholders are copies of each other
    NEAR: ("blank",),
}


def measure(
    key: pa.Table, verdicts: pa.Table, reasons: Mapping[str, Collection[str]] = REASONS
) -> pa.Table:
    """Recall and precision per planted defect; see RESULT and the module's text.

    key: uid, defect, twin_uid (of the row a duplicate was made from).
    verdicts: uid, reasons, twin_uid, of all shards.
    reasons: which reasons find a defect, the filter's own first; by default its own name.
    """
    planted: dict[str, dict[str, str | None]] = {}
    for row in key.select(["uid", "defect", "twin_uid"]).to_pylist():
        planted.setdefault(row["defect"], {})[row["uid"]] = row["twin_uid"]
    flags = _Flags(verdicts)
    source = _sources(planted[defect] for defect in PAIRS if defect in planted)
    rows: list[dict[str, object]] = []
    for defect, uids in planted.items():
        names = list(reasons.get(defect, (defect,)))
        flagged = flags.rows(names)
        flagged_uids = {uid for uid, _ in flagged}
        beside = {uid for other in RIGHTLY.get(defect, ()) for uid in planted.get(other, ())}
        judged = [(uid, twin) for uid, twin in flagged if uid not in beside]
        if defect in PAIRS:
            caught = sum(uid in flagged_uids or twin in flagged_uids for uid, twin in uids.items())
            right = sum(source.get(uid, uid) == source.get(twin) for uid, twin in judged)
        else:
            caught = sum(uid in flagged_uids for uid in uids)
            right = sum(uid in uids for uid, _ in judged)
        rows.append(
            {
                "defect": defect,
                "reason": names[0],
                "planted": len(uids),
                "caught": caught,
                "flagged": len(judged),
                "recall": caught / len(uids),
                "precision": right / len(judged) if judged else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=RESULT)


class _Flags:
    """The rows that carry a reason, with the uid of their twin."""

    def __init__(self, verdicts: pa.Table) -> None:
        self._uids = verdicts["uid"].to_pylist()
        self._twins = verdicts["twin_uid"].to_pylist()
        self._rows: dict[str, set[int]] = {}
        rows, values = list_entries(verdicts["reasons"])
        for row, reason in zip(rows.tolist(), values.to_pylist(), strict=True):
            self._rows.setdefault(reason, set()).add(row)

    def rows(self, reasons: Iterable[str]) -> list[tuple[str, str | None]]:
        found: set[int] = set()
        for reason in reasons:
            found |= self._rows.get(reason, set())
        return [(self._uids[row], self._twins[row]) for row in sorted(found)]


def _sources(pairs: Iterable[Mapping[str, str | None]]) -> dict[str | None, str]:
    """For every member of a planted pair one uid that stands for all made from one source."""
    parent: dict[str, str] = {}

    def root(uid: str) -> str:
        while parent.setdefault(uid, uid) != uid:
            parent[uid] = uid = parent[parent[uid]]
        return uid

    for members in pairs:
        for uid, twin in members.items():
            if twin is not None:
                parent[root(uid)] = root(twin)
    return {uid: root(uid) for uid in list(parent)}
