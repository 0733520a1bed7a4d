import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from infra import progress
from infra.progress import PlainDisplay, RichDisplay, SilentDisplay, display, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (7, "7.0 s"),
        (59.4, "59 s"),
        (75, "1 min 15 s"),
        (3599, "59 min 59 s"),
        (7300, "2 h 1 min"),
    ],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    return clock


def test_plain_lines_come_at_the_start_now_and_then_and_at_the_end(clock: Clock) -> None:
    lines: list[str] = []
    with PlainDisplay(lines.append) as shown:
        line = shown.stage("ingest", 20)
        for _ in range(20):
            clock.now += 1.0
            line.advance(1, "7 rows")
        line.finish("140 rows")
    assert lines == [
        "ingest: 20 shards to do",
        "ingest: 5/20 shards, 1.0/s, 15 s left, 7 rows",
        "ingest: 10/20 shards, 1.0/s, 10 s left, 7 rows",
        "ingest: 15/20 shards, 1.0/s, 5.0 s left, 7 rows",
        "ingest: 20 shards in 20 s, 140 rows",
    ]


def test_getting_ready_is_no_part_of_the_pace(clock: Clock) -> None:
    lines: list[str] = []
    line = PlainDisplay(lines.append).stage("pretrain", 100, "steps")
    for seconds in (0.0, 40.0, *[1.0] * 6):  # what was there, the start, then steps
        clock.now += seconds
        line.advance(10)
    assert lines[1:] == [
        "pretrain: 20/100 steps",
        "pretrain: 70/100 steps, 10.0/s, 3.0 s left",
    ]


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with SilentDisplay() as shown:
        shown.say("something")
        line = shown.stage("ingest", 1)
        line.advance()
        line.finish()
    assert capsys.readouterr() == ("", "")


def test_captions_in_messages_are_no_markup() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with RichDisplay(console) as shown:
        shown.say("[red]not a colour[/red] [/]")
    assert "[red]not a colour[/red] [/]" in console.file.getvalue()  # type: ignore[attr-defined]


SCRIPT = """
from infra.progress import display
with display() as shown:
    line = shown.stage("ingest", 3)
    for _ in range(3):
        line.advance(1, "5 rows")
    line.finish("15 rows")
    shown.say("done")
"""


def test_where_there_is_no_terminal_lines_are_plain() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout == ""  # results go there
    lines = run.stderr.splitlines()
    assert lines[0] == "ingest: 3 shards to do"
    assert re.fullmatch(r"ingest: 3 shards in \d\.\d s, 15 rows", lines[1])
    assert lines[2:] == ["done"]


def test_on_a_terminal_there_is_one_line_for_each_stage() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stderr=theirs,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 65536):
            shown += block
    except OSError:  # Linux's word for the end of a terminal
        pass
    os.close(ours)
    assert process.wait() == 0
    last = [line for line in shown.decode().splitlines() if "ingest" in line][-1]
    assert "3/3" in last
    assert "15 rows" in last


def test_the_display_of_a_test_is_plain() -> None:
    assert isinstance(display(), PlainDisplay)
