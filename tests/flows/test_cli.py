"""The command line: what it understands, what it prints, and how it fails."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from flows import cli
from flows.cli import app, guarded
from infra.dataset import open_dataset
from infra.errors import SluiceError
from tests.flows.conftest import SMALL

ROOT = Path(__file__).parents[2]
RUNS = (
    "curate-and-pretrain",
    "ingest",
    "curate",
    "index",
    "synthesize",
    "pretrain",
    "evaluate",
)
STORE = ("diff", "lineage", "verify", "gc", "tag")
HEAVY = (
    *("torch", "torchvision", "open_clip", "timm", "faiss", "ray", "prefect", "webdataset"),
    *("numba", "llvmlite", "py3langid", "scipy", "sklearn", "skimage"),
)


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def call(*tokens: str) -> int:
    """The exit code of the command line, in this process."""
    with pytest.raises(SystemExit) as stopped:
        app(list(tokens))
    return int(stopped.value.code or 0)


def python(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "80", **more},
    )


def test_help_has_one_line_for_each_command() -> None:
    shown = python("-m", "flows", "--help").stdout
    assert shown.startswith("Usage: python -m flows COMMAND")
    for name in (*RUNS, "race", "takedown", "report", "explain", "serve", *STORE):
        (line,) = [line for line in shown.splitlines() if re.match(rf"│ {name} ", line)]
        assert re.fullmatch(rf"│ {name} +[A-Z].*\. *│", line), line


@pytest.mark.parametrize("name", [*RUNS, "race", "takedown", "report", "explain", "serve"])
def test_the_help_of_each_command_shows_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(name, "--help") == 0
    shown = capsys.readouterr().out
    assert "Example" in shown
    assert f"prefect run {name}" in shown
    plans = ["--plan"] if name in (*RUNS, "race", "takedown") else []
    for option in ("--recipe", "--set", "--store", *plans):
        assert option in shown


@pytest.mark.parametrize("name", STORE)
def test_so_does_that_of_each_command_for_the_store(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(name, "--help") == 0
    shown = capsys.readouterr().out
    assert "Example" in shown and f"prefect run {name}" in shown and "--store" in shown


@pytest.mark.parametrize("name", RUNS)
def test_every_flow_takes_the_same_options(name: str) -> None:
    tokens = [name, "--recipe", "r.yaml", "--set", "a.b=1", "--set", "c=[x, y]"]
    _, bound, _ = app.parse_args([*tokens, "--store", "s3://bucket/store", "--plan"])
    choices = bound.arguments["choices"]
    assert choices.plan
    options = choices.options()
    assert options.recipe == "r.yaml"
    assert options.overrides == ("a.b=1", "c=[x, y]")
    assert options.store == "s3://bucket/store"


def test_a_race_takes_several_recipes() -> None:
    tokens = ["race", "--recipes", "a.yaml", "b.yaml", "--budget", "32k", "--set", "race.seeds=2"]
    _, bound, _ = app.parse_args([*tokens, "--recipes", "c.yaml", "--plan"])
    assert bound.arguments["recipes"] == ("a.yaml", "b.yaml", "c.yaml")
    assert bound.arguments["budget"] == "32k"
    assert bound.arguments["overrides"] == ("race.seeds=2",)
    assert bound.arguments["plan"]


def test_a_value_may_look_like_an_option_or_a_number() -> None:
    _, bound, _ = app.parse_args(["curate", "--set", "a=-1", "--set=b=--c"])
    assert bound.arguments["choices"].overrides == ("a=-1", "b=--c")


def test_explain_takes_a_uid_and_a_dataset() -> None:
    _, bound, _ = app.parse_args(["explain", "f" * 32, "--dataset", "pool@0123", "--store", "s"])
    assert bound.arguments["uid"] == "f" * 32
    assert bound.arguments["dataset"] == "pool@0123"
    assert bound.arguments["choices"].store == "s"


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["curat"], 'Did you mean "curate"'),
        (["curate", "--recip", "x"], "--recip"),
        (["explain"], "UID"),
    ],
)
def test_a_mistyped_command_is_answered_with_the_right_one(
    tokens: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*tokens) == 2
    captured = capsys.readouterr()
    assert message in captured.out + captured.err


@pytest.mark.parametrize(
    ("tokens", "messages"),
    [
        (["curate", "--recipe", "nowhere.yaml"], ["nowhere.yaml"]),
        (["curate", "--recipe", "nowhere.yaml", "--plan"], ["nowhere.yaml"]),
        (["curate", "--set", "data.nonsense=1"], ["data.nonsense", "unknown key"]),
        (
            ["curate", "--set", "curate.selection={plan: [{kind: quotas, reason: few, most: 3}]}"],
            ["plan.0.quotas.by: Field required", "reason: unknown key; there are by, kind, most"],
        ),
        (
            ["curate", "--set", "curate.scores={bad: {kind: words, flie: a.txt}}"],
            ["did you mean 'file'?"],
        ),
        (["curate", "--set", "data.nonsense=1", "--plan"], ["data.nonsense", "unknown key"]),
        (["ingest", "--set", "seed=often"], ["seed"]),
        (["ingest", "--set", "seed"], ["--set 'seed'"]),
        (["report"], ["no curated version", "{store}"]),
        (["explain", "0" * 32], ["no dataset 'curated' in {store}"]),
        (["verify"], ["{store} holds nothing"]),
        (["gc", "--older-than", "often"], ["--older-than often is no age"]),
        (["tag", "paper", "curated"], ["no dataset 'curated' in {store}"]),
        (["diff", "pool", "curated"], ["no dataset 'pool' in {store}"]),
        (["lineage", "pool@0123"], ["pool@0123 is not in {store}"]),
        (["lineage", "--uid", "0" * 32], ["no version of {store}"]),
    ],
)
def test_what_cannot_work_is_one_message_and_a_way_out(
    tokens: list[str], messages: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "store")
    assert call(*tokens, "--store", store) == cli.FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "\n  way out: " in captured.err
    assert "Traceback" not in captured.err
    for message in messages:
        assert message.format(store=store) in captured.err
    assert not Path(store).exists()


def test_a_store_that_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").write_text("I am a file")
    assert call("ingest", "--store", str(tmp_path / "store")) == cli.FAILED
    error = capsys.readouterr().err
    assert f"cannot write {tmp_path}/store" in error
    assert "--store" in error


def test_ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        guarded(interrupted)
    assert stopped.value.code == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guarded(broken)


def test_an_error_goes_out_after_what_was_printed() -> None:
    script = (
        "from flows.cli import guarded\n"
        "from infra.errors import SluiceError\n"
        "def action():\n"
        "    print('a line')\n"
        "    raise SluiceError('shard 7 is gone', 'put it back')\n"
        "guarded(action)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert run.stdout == "a line\nerror: shard 7 is gone\n  way out: put it back\n"
    assert run.returncode == 1
    assert str(SluiceError("a", "b")) == "a\n  way out: b"


def test_a_reader_that_stops_reading_is_no_error() -> None:
    script = "from flows.cli import guarded; guarded(lambda: print(*range(10**6), sep='\\n'))"
    run = subprocess.run(
        ["bash", "-c", f'set -o pipefail; {sys.executable} -c "{script}" | head -n 1'],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (run.stdout, run.stderr, run.returncode) == ("0\n", "", 0)


AFTER = (
    "import sys\n"
    "from flows.cli import app\n"
    "try:\n"
    "    app({tokens!r})\n"
    "except SystemExit:\n"
    "    pass\n"
    "print(*sorted({{name.partition('.')[0] for name in sys.modules}} & set({heavy!r})))\n"
)

EVERY_SCORE = [
    token
    for kind in ("concepts", "fooling", "generated", "labels", "outlier")
    for token in ("--set", f"curate.scores.chosen_{kind}={{kind: {kind}}}")
]


def heavy_after(tokens: Sequence[str], store: Path) -> list[str]:
    """Which of HEAVY a process has imported that ran these tokens."""
    run = python("-c", AFTER.format(tokens=list(tokens), heavy=HEAVY), SLUICE_STORE=str(store))
    assert run.returncode == 0, run.stderr
    assert ("nothing was written" in run.stdout) == ("--plan" in tokens), run.stderr
    return run.stdout.splitlines()[-1].split()


@pytest.mark.slow
@pytest.mark.parametrize(
    "tokens",
    [
        ["curate-and-pretrain", "--plan"],
        ["curate", *EVERY_SCORE, "--plan"],
        ["race", "--recipes", "curate-and-pretrain", "--plan"],
        ["report"],
        ["explain", "0" * 32],
        ["curate", "--help"],
    ],
    ids=lambda tokens: f"{tokens[0]} {tokens[-1]}",
)
def test_what_must_answer_at_once_imports_nothing_heavy(tokens: list[str], tmp_path: Path) -> None:
    assert heavy_after(tokens, tmp_path / "store") == []
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_nor_does_what_answers_from_a_store(curated_store: Path) -> None:
    uid = open_dataset(str(curated_store), "curated").rows(0)["uid"][0].as_py()
    changes = [token for change in SMALL for token in ("--set", change)]
    index = ["index", "--dataset", "pool", "--plan"]
    plans = (["curate", "--plan", *changes], ["index", "--plan", *changes], index)
    plans += (["gc"], ["diff", "pool", "curated"], ["lineage", "curated"])
    for tokens in (["explain", uid], ["report", *changes], *plans):
        assert heavy_after(tokens, curated_store) == []
