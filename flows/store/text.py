"""Words, tables and ages for a terminal."""

import re
from collections.abc import Sequence

from infra.errors import SluiceError

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)")


def seconds(age: str, name: str) -> float:
    """ "30d" -> seconds; `name` is the option that says it."""
    found = _AGE.fullmatch(age.strip())
    if found is None or (not found.group(2) and float(found.group(1))):
        raise SluiceError(f"{name} {age} is no age", "say 12h, 30d or 8w")
    return float(found.group(1)) * SECONDS[found.group(2) or "s"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns of text, those in `right` flush right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    shown = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join(shown)


def clean(text: str, width: int = 100) -> str:
    """One printable line: what strangers wrote must not steer the terminal that shows it."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return shown if len(shown) <= width else f"{shown[: width - 3]}..."
