"""The samples' own JSON, as a dataset version keeps it in the column `meta` of its rows."""

import json
from collections.abc import Mapping
from typing import Any


def parse(text: str | None) -> dict[str, Any]:
    """The fields of a sample; none where it has none, or not as JSON."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def label(fields: Mapping[str, Any], name: str) -> str:
    """A field as the name of a class: "" where there is none, or where it is no single value."""
    value = fields.get(name)
    return "" if value is None or isinstance(value, (dict, list)) else str(value).strip()
