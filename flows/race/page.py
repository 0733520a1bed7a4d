"""The page of a race, `<race>/report/index.html`: one table, one plot, from `race.json` alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from flows.race.main import PAGE
from flows.race.steps import RAW
from flows.race.table import FILE, artifact_at, share_of
from flows.report.evaluation import METRIC, signed
from flows.report.render import fill
from flows.report.samples import clean
from infra import charts, filesystem
from infra.charts import label
from infra.filesystem import join

Line = Mapping[str, Any]  # an entrant of race.json


def write_page(table_url: str) -> str:
    """Write the page beside the table at `table_url`; its path.

    It is no artifact: it may be written again at any time from the table.
    """
    artifact = artifact_at(table_url)
    table = filesystem.read_json(artifact.path(FILE))
    page = fill("race.html.jinja", race=view(table, artifact.digest), title="race of recipes")
    filesystem.write_bytes(table_url, PAGE, page.encode("utf-8", "replace"))
    filesystem.remove_tree(join(table_url, filesystem.TEMPORARY))
    return join(table_url, PAGE)


def view(table: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """What the template shows: the table's figures, in words and charts."""
    entrants = [_named(entry) for entry in table["entrants"]]
    tasks = [
        task for task in table["tasks"] if any(task in each["evaluation"] for each in entrants)
    ]
    best = {task: _best(entrants, task)["label"] for task in tasks}
    compared = sorted({each["baseline"] for each in entrants if each["baseline"]})
    first = entrants[0]
    return {
        "digest": digest,
        "entrants": entrants,
        "tasks": tasks,
        "best": best,
        "samples_seen": table["samples_seen"],
        "seeds": table["seeds"],
        "test_samples": first["test_samples"],
        "model": _model(table),
        "confidence": f"{100 * table['confidence']:.0f}\u00a0%",
        "baselines": _the(compared[0]) if len(compared) == 1 else "its raw pool",
        "basis": _basis(table),
        "headline": _values(entrants, tasks[0]),
        "charts": [_gains(entrants, task) for task in tasks if len(entrants) > 1],
        **table["measures"],
        "cells": first["measures"]["cells"],
        **_answer(table, entrants, tasks[0]),
    }


def _named(entry: Line) -> Line:
    """An entrant whose names are fit to be shown."""
    rival, mix = entry["baseline"], entry.get("mix", {})
    names = {"label": clean(entry["label"]), "baseline": rival and clean(rival)}
    return {**entry, **names, "mixed": _mixed(mix) if len(mix) > 1 else ""}


def _mixed(mix: Mapping[str, Any]) -> str:
    """ "25 % of these, 75 % real"; without shares where they change over the run."""
    found: list[str] = []
    for name in mix:
        share = share_of(mix, name)
        of = "of these" if name == "curated" else clean(name)
        found.append(of if share is None else f"{100 * share:.0f}\u00a0% {of}")
    return ", ".join(found)


def _best(entrants: Sequence[Line], task: str) -> Line:
    """The entrant with the highest accuracy, the first of equals."""
    asked = [each for each in entrants if task in each["evaluation"]]
    return max(asked, key=lambda each: each["evaluation"][task][METRIC]["value"])


def _the(name: str) -> str:
    """A label within a sentence."""
    return f"the {name}" if name.startswith(RAW) else name


def _model(table: Mapping[str, Any]) -> str:
    model = table["model"]
    if isinstance(model, str):
        return f"{label(table['objective'])}, {model}"
    vision = model.get("vision_cfg", {}).get("timm_model_name")
    return f"{label(table['objective'])}, {f'with {vision}' if vision else 'of its own design'}"


def _basis(table: Mapping[str, Any]) -> str:
    if table["seeds"] > 1:
        return f"Intervals are over {table['seeds']} seeds, each paired with its own baseline run."
    return "There is one seed: intervals are over test images, and do not tell luck in training."


def _answer(table: Mapping[str, Any], entrants: Sequence[Line], task: str) -> dict[str, str]:
    """Who leads at `task`, and whether it is more than luck."""
    leader = _best(entrants, task)
    value = leader["evaluation"][task][METRIC]["value"]
    said = f"{label(task)} accuracy is {100 * value:.1f}\u00a0%"
    if leader["baseline"] is None:
        return {
            "verdict": "no",
            "word": f"None beats {_the(leader['label'])}.",
            "sentence": f"Its {said[0].lower()}{said[1:]}, the highest of {len(entrants)}.",
            "gain": "",
            "interval": "",
        }
    rival = next(each for each in entrants if each["label"] == leader["baseline"])
    figure = leader["difference"][task][METRIC]
    theirs = rival["evaluation"][task][METRIC]["value"]
    sure = figure["low"] > 0
    seeds, learnt = table["seeds"], "its mix" if leader["mixed"] else "what it keeps"
    return {
        "verdict": "yes" if sure else "unclear",
        "word": f"{leader['label']}." if sure else f"{leader['label']}, but it may be luck.",
        "sentence": f"{said} after training on {learnt}, {100 * theirs:.1f}\u00a0% after "
        f"{_the(rival['label'])}, at the same {table['samples_seen']:,} samples seen.",
        "gain": f"{signed(figure['value'])} points",
        "interval": f"{100 * table['confidence']:.0f}\u00a0% interval {signed(figure['low'])} to "
        f"{signed(figure['high'])}, paired, {seeds} seed{'' if seeds == 1 else 's'}",
    }


def _values(entrants: Sequence[Line], task: str) -> Markup:
    rows = [
        charts.Interval(
            each["label"], figure["value"], figure["low"], figure["high"], each["baseline"] is None
        )
        for each in entrants
        if (figure := each["evaluation"].get(task, {}).get(METRIC))
    ]
    return charts.interval_chart(f"{label(task)}, held-out split", rows, label(METRIC))


def _gains(entrants: Sequence[Line], task: str) -> Markup:
    rows = [
        charts.Interval(each["label"], figure["value"], figure["low"], figure["high"])
        for each in entrants
        if (figure := (each["difference"] or {}).get(task, {}).get(METRIC))
    ]
    return charts.interval_chart(label(task), rows, "points of accuracy", signed=True)
