"""What img2dataset leaves beside a tar: a row for every URL, also for those it could not fetch.

00000.tar has the images, 00000.parquet a `status` and an `error_message` for each input row (of
img2dataset 1.47). Its messages are those of Python's urllib and of its own resizer.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from curation import outcomes
from curation.sources import columnar
from curation.sources.base import NO_META, Record, text_of
from curation.sources.columnar import DAMAGED, ParquetGroups

COLUMNS = frozenset(("key", "url", "status", "error_message"))
FAILED = ("failed_to_download", "failed_to_resize")

_HTTP = re.compile(r"http error (\d{3})")
_WORDS = (  # the first that is in a message, in lower case, is its class
    ("redirect error", outcomes.REDIRECT_REFUSED),
    ("name or service not known", outcomes.DNS),
    ("name resolution", outcomes.DNS),
    ("no address associated", outcomes.DNS),
    ("nodename nor servname", outcomes.DNS),
    ("timed out", outcomes.TIMEOUT),
    ("timeout", outcomes.TIMEOUT),
    ("certificate", outcomes.TLS),
    ("ssl", outcomes.TLS),
    ("connection refused", outcomes.CONNECT),
    ("connection reset", outcomes.CONNECT),
    ("connection aborted", outcomes.CONNECT),
    ("closed connection", outcomes.CONNECT),
    ("broken pipe", outcomes.CONNECT),
    ("unreachable", outcomes.CONNECT),
    ("no route to host", outcomes.CONNECT),
    ("incompleteread", outcomes.TRUNCATED),
    ("unknown url type", outcomes.BAD_URL),
    ("no host given", outcomes.BAD_URL),
    ("disallowed", outcomes.DISALLOWED_BY_HEADER),
    ("hash mismatch", outcomes.HASH_MISMATCH),
    ("decoding error", outcomes.DECODE_FAILED),
    ("image too small", outcomes.TOO_SMALL),
    ("aspect ratio", outcomes.EXTREME_ASPECT),
    ("image area", outcomes.TOO_MANY_PIXELS),
)


def failed(url: str, label: str) -> Iterator[Record]:
    """A refused record for every row of the Parquet file at `url` that img2dataset failed on.

    Nothing where the file is not img2dataset's. Raises SluiceError where it is not whole.
    """
    with columnar.open_raw(url) as raw:
        groups = ParquetGroups(raw, url)
        if not set(groups.schema.names) >= COLUMNS:
            return
        names = columnar.riders(groups.schema, {})
        first = 0
        for group, size in enumerate(groups.sizes):
            read = 0
            for rows in columnar.read_rows(groups, names, group, 0, size):
                for row in rows:
                    read += 1
                    if row["status"] in FAILED:
                        yield _record(f"{label}#{text_of(row['key'])}", row)
            if read < size:
                yield Record(f"{label}#{first + read}", reason=DAMAGED)
            first += size


def _record(source: str, row: Mapping[str, Any]) -> Record:
    reason, status = outcome(row["error_message"])
    return Record(
        source,
        caption=text_of(row.get("caption")),
        url=text_of(row["url"]),
        uid=text_of(row.get("uid")),
        meta={name: value for name, value in row.items() if name not in NO_META},
        reason=reason,
        http_status=status,
        key=text_of(row["key"]),
    )


def outcome(message: Any) -> tuple[str, int | None]:
    """The class of one of img2dataset's error messages, and the HTTP status in it."""
    text = message.lower() if isinstance(message, str) else ""
    http = _HTTP.search(text)
    status = int(http[1]) if http else None
    known = next((reason for words, reason in _WORDS if words in text), None)
    if known is None and status is not None:
        known = outcomes.of_status(status)
    return known or outcomes.FAILED_BEFORE, status
