"""The command line of training: `python -m pretrain train NAME ...`, alone or under torchrun."""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import contextlib
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from cyclopts import Parameter
from pydantic import BaseModel, ValidationError

from infra import artifacts
from infra.command import command_line, run_command
from infra.dataset import open_dataset
from infra.errors import SluiceError
from infra.progress import Pulse, display
from infra.runner import make_runner
from infra.stage import Draft
from pretrain.data import Source
from pretrain.mix import Weight
from pretrain.run import job_of, run_draft
from pretrain.settings import TrainSettings
from pretrain.told_classes import with_classes

Kind = TypeVar("Kind", bound=BaseModel)

app = command_line("python -m pretrain", "Training runs on dataset versions.")


@app.command
def train(
    name: str,
    *,
    settings: Path,
    source: list[str],
    store: Annotated[str | None, Parameter(name="--store")] = None,
) -> None:
    """Train one encoder; killed and called again it goes on from its last checkpoint.

    Examples: on this machine, and with two processes that share every batch:

        python -m pretrain train mine --settings mae.yaml --source curated
        torchrun --nproc-per-node 2 -m pretrain train mine --settings mae.yaml
        --source curated=0.7 --source fractals@0123456789abcdef=0.3

    The number of processes is no part of the run: another number goes on where one stopped.

    Parameters
    ----------
    name
        Of the run: it is written to STORE/runs/NAME/DIGEST.
    settings
        A YAML file of the fields of TrainSettings: objective, model, batch, steps, ...
    source
        NAME or NAME@VERSION of a dataset, and =SHARE of the samples seen; shares are equal
        where none is given. More than once for a mix. =0:1,0.5:0 is a share that falls from 1 to
        0 over the first half of the run.
    store
        Where versions and runs live; without it SLUICE_STORE, else `store/` here.
    """
    draft, chosen, sources = _draft(name, _settings(settings), source, store)
    _train(draft, chosen, sources)


@app.command
def preflight(
    name: str,
    *,
    settings: Path,
    source: list[str],
    store: Annotated[str | None, Parameter(name="--store")] = None,
    seconds: float = 5.0,
) -> None:
    """Tell what a run will take before it starts: memory, the loader's pace and the model's, hours.

    Real batches and real steps on this machine, for a few seconds, and with `evaluate_every` one
    whole evaluation; nothing is written. Once the run has been made, the same words tell what it
    took beside what was expected.

    Example:

        python -m pretrain preflight mine --settings mae.yaml --source curated=0.7
        --source fractals=0.3

    How to read it: where the loader gives fewer images a second than the model takes, steps wait
    for data; more `threads`, a lower `canvas` or smaller stored images help. Where the memory does
    not fit, a smaller `batch`, `grad_checkpointing` or `precision: bfloat16` do. The time is that
    of this machine: ask on one like those that will train.

    Parameters
    ----------
    name
        Of the run, as for `train`.
    settings
        A YAML file of the fields of TrainSettings: objective, model, batch, steps, ...
    source
        NAME or NAME@VERSION of a dataset, and =SHARE of the samples seen, as for `train`.
    store
        Where versions and runs live; without it SLUICE_STORE, else `store/` here.
    seconds
        To measure each of loader, views, model, and all together.
    """
    from pretrain.clock import Spent
    from pretrain.online import took
    from pretrain.preflight import preflight as forecast
    from pretrain.preflight import words

    draft, chosen, sources = _draft(name, _settings(settings), source, store)
    told = forecast(job_of(draft, sources, chosen).settings, sources, seconds)
    for line in words(told, Spent.load(draft.url), took(draft.url)):
        print(line)


@app.command
def reinforce(
    name: str,
    *,
    settings: Path,
    source: str,
    store: Annotated[str | None, Parameter(name="--store")] = None,
    executor: Literal["local", "ray", "inline"] = "local",
    workers: int = 0,
) -> None:
    """Ask a teacher about stored views of a dataset's samples, once; killed, it goes on.

    Its outputs become score columns of the version, STORE/DATASET/VERSION/scores/NAME-DIGEST, which
    the objectives teacher_records and label_maps learn from.

    Example:

        python -m pretrain reinforce teacher --settings reinforce.yaml --source curated

    Parameters
    ----------
    name
        Of the columns.
    settings
        A YAML file of the fields of ReinforceSettings: teachers, output, views, top, ...
    source
        NAME or NAME@VERSION of a dataset.
    store
        Where versions and runs live; without it SLUICE_STORE, else `store/` here.
    executor
        local: processes on this machine; ray; or inline, this process.
    workers
        As many at a time; 0: one a processor.
    """
    from infra.stage import run_stage
    from pretrain import reinforce as made
    from pretrain.reinforce_settings import ReinforceSettings

    chosen = _read(settings, ReinforceSettings)
    version = open_dataset(_store(store), source)
    draft = made.reinforce_draft(version.url, version.artifact.digest, name, chosen)
    items = made.reinforce_items(version.url, chosen)
    work = made.ReinforceWork(draft.url, version.url, chosen)
    with display() as shown, make_runner(executor, workers) as runner:
        stage = run_stage(
            f"reinforce {name}", {"": draft}, items, work, runner, shown, work.figures, gpu=True
        )
    print(f"{draft.url.rpartition('/')[2]}: {made.words(stage[''])}")


@app.command
def seen(run: str, *, to: Path | None = None, uid: str | None = None) -> None:
    """Tell which samples a run has seen, and how often; of an unfinished one up to its checkpoint.

    Examples:

        python -m pretrain seen store/runs/mine/0123456789abcdef --to seen.parquet
        python -m pretrain seen store/runs/mine/0123456789abcdef --uid UID

    Parameters
    ----------
    run
        Its folder: STORE/runs/NAME/DIGEST.
    to
        A Parquet file to write: source, id, uid, times; a row for each sample of its sources.
    uid
        Tell of this sample alone.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from pretrain.seen import SEEN
    from pretrain.seen import seen as of_run

    if uid is not None:
        rows = pa.concat_tables(each.filter(pc.field("uid") == uid) for each in of_run(run))
        for row in rows.to_pylist():
            print(f"{row['source']} id {row['id']}: seen {row['times']} times")
        if not len(rows):
            raise SluiceError(f"no source of {run} has the uid {uid}", "check the uid")
        return
    times: Counter[tuple[str, int]] = Counter()
    with pq.ParquetWriter(to, SEEN) if to else contextlib.nullcontext() as writer:
        for shard in of_run(run):
            times.update(zip(shard["source"].to_pylist(), shard["times"].to_pylist(), strict=True))
            if writer is not None:
                writer.write_table(shard)
    for (source, often), count in sorted(times.items()):
        print(f"{source}: {count} samples seen {often} times")


@app.command
def compare(*evaluations: str, to: str) -> None:
    """Put evaluations side by side: one table and one picture.

    Example, of two runs of `prefect run evaluate` on the same samples:

        python -m pretrain compare store/evaluations/0123456789abcdef
        store/evaluations/fedcba9876543210 --to compared

    Parameters
    ----------
    evaluations
        Their folders: STORE/evaluations/DIGEST.
    to
        A folder to write: comparison.parquet has every figure, comparison.csv a row an encoder,
        comparison.svg a panel a task.
    """
    from pretrain.evaluate.comparison import compare as side_by_side

    found = side_by_side(evaluations)
    found.save(to)
    rows = found.wide().num_rows
    print(f"{rows} encoder{'s' if rows != 1 else ''} of {len(set(evaluations))} evaluations: {to}")


def _settings(path: Path) -> TrainSettings:
    return _read(path, TrainSettings)


def _read(path: Path, kind: type[Kind]) -> Kind:
    """Settings of some kind from a YAML file."""
    try:
        value: Any = yaml.safe_load(path.read_text())
        return kind.model_validate(value)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise SluiceError(f"{path}: {error}", "see pretrain/README.md for the fields") from error


def _store(given: str | None) -> str:
    return given or os.environ.get("SLUICE_STORE") or "store"


def _draft(
    name: str, settings: TrainSettings, source: list[str], store: str | None
) -> tuple[Draft, TrainSettings, list[Source]]:
    """The run to be, its settings with the classes that a source tells, and its sources."""
    place = _store(store)
    mix = dict(_share(each) for each in source)
    versions = {each: open_dataset(place, each) for each in mix}
    digests = {each: version.artifact.digest for each, version in versions.items()}
    made = {each: version.artifact.settings for each, version in versions.items()}
    settings = with_classes(settings, made)
    draft = run_draft(place, name, settings, digests, mix)
    return draft, settings, [Source(versions[each].url, share, each) for each, share in mix.items()]


def _share(text: str) -> tuple[str, Weight]:
    """(name, share) of NAME=SHARE, NAME=AT:SHARE,AT:SHARE or NAME."""
    name, _, share = text.partition("=")
    try:
        if ":" not in share:
            return name, float(share or 1)
        pairs = [knot.split(":") for knot in share.split(",")]
        return name, tuple((float(at), float(number)) for at, number in pairs)
    except ValueError as error:
        raise SluiceError(
            f"--source {text}: {share!r} is no share", "write NAME=0.7, or NAME=0:1,1:0.2"
        ) from error


def _train(draft: Draft, settings: TrainSettings, sources: list[Source]) -> None:
    """In this process, or in those that torchrun started, of which the first one commits."""
    from torch import distributed

    from pretrain.loop import claim, pick_device, run
    from pretrain.run import train as make

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        on_gpu = claim(pick_device(settings.device)).type == "cuda"
        distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        if int(os.environ.get("RANK", "0")) == 0:
            with display() as shown:
                print(make(draft, sources, settings, "local", shown).url)
        elif artifacts.load(draft.url) is None:
            run(job_of(draft, sources, settings), _silent)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _silent(step: int, pulse: Pulse) -> None:
    return None


if __name__ == "__main__":
    run_command(app)
