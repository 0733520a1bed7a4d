"""A run that another process drives, shown here: its lines of events become words of a display."""

import json
from typing import Any

from infra.progress import Display, Done, Line

MARK = '{"event": '  # how a line of `JsonLines` begins; all else that a process prints is said


class Relay:
    """Takes the lines that a process with `JsonLines` on its output prints."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._lines: dict[str, Line] = {}

    def __call__(self, line: str) -> None:
        event = _event(line)
        if event is None:
            self._display.say(line)
            return
        match event:
            case {"event": "said", "text": text}:
                self._display.say(text)
            case {"event": "stage_begin", "stage": stage, "total": total, "unit": unit}:
                self._lines[stage] = self._display.stage(stage, total, unit)
            case {"event": "resumed", "stage": stage, "count": count}:
                self._lines[stage].advance(count, "resumed")
            case {"event": "shard", "stage": stage}:
                done = Done(**{name: event[name] for name in Done.__dataclass_fields__})
                self._lines[stage].advance(1, f"{done.rows} rows", done)
            case {"event": "advance", "stage": stage, "count": count, "note": note}:
                self._lines[stage].advance(count, note)
            case {"event": "stage_end", "stage": stage, "note": note}:
                self._lines.pop(stage).finish(note)
            case _:
                return


def _event(line: str) -> dict[str, Any] | None:
    """The event of a line; None where it is something else."""
    if not line.startswith(MARK):
        return None
    try:
        return json.loads(line)
    except ValueError:  # cut by a log that was rotated
        return None
