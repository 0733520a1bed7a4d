"""A run that another process drives, shown here: its lines of events become words of a display."""

import json
from typing import Any

from infra.progress import Display, Done, Line, Pulse

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
            case {"stage": stage} if stage in self._lines:  # else its begin was cut off
                self._pass_on(self._lines[stage], event)
            case _:
                return

    def _pass_on(self, line: Line, event: dict[str, Any]) -> None:
        match event:
            case {"event": "resumed", "count": count}:
                line.advance(count, "resumed")
            case {"event": "shard"}:
                done = Done(**{name: event[name] for name in Done.__dataclass_fields__})
                line.advance(1, f"{done.rows} rows", done)
            case {"event": "advance", "count": count, "note": note}:
                told = {name: event[name] for name in Pulse.__dataclass_fields__ if name in event}
                line.advance(count, note, pulse=Pulse(**told) if len(told) > 1 else None)
            case {"event": "stage_end", "note": note}:
                line.finish(note)
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
