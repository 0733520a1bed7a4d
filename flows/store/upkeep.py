"""`tag`, `gc` and `verify`: what the commands and the flows of that name say, and what they do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.main import Options, store_url
from flows.recipe import load_recipe
from flows.store.text import seconds, table
from infra.catalogue.gc import Plan, Retention, collect, plan_gc
from infra.catalogue.nodes import UNFINISHED, Catalogue
from infra.catalogue.survey import survey
from infra.catalogue.tags import put_tag, remove_tag
from infra.catalogue.verify import Damage, verify_store
from infra.errors import SluiceError
from infra.progress import Display, size

SHOWN = 200  # things of a plan that are told one by one
DRY = "nothing was removed; with --yes (remove=true for a deployment) it is"

# What makes an artifact again, by the stage that made it.
COMMANDS: Mapping[str, str] = {
    "curation.ingest": "ingest",
    "curation.retry": "ingest",
    "curation.text_tables": "ingest",
    "curation.generate": "curate",
    "curation.measures": "race",
    "flows.race": "race",
    "curation": "curate",
    "indexes": "index",
    "pretrain": "pretrain",
    "evaluate": "evaluate",
    "drawn": "synthesize",
}


def tag(store: str | None, name: str, version: str | None, remove: bool = False) -> str:
    """Tag what `version` names, or take the tag away; what was done, in words."""
    url = store_url(store)
    if remove:
        remove_tag(url, name)
        return f"{name} names nothing any more"
    if version is None:
        raise SluiceError(f"nothing is said to tag {name}", "say NAME@VERSION after the tag")
    node = survey(url).find(version)
    put_tag(url, name, node.place)
    return f"{name} names {node.label}"


def tags(store: str | None) -> str:
    """The tags of a store, as a table."""
    catalogue = survey(store_url(store))
    rows = [
        (name, catalogue.nodes[place].label if place in catalogue.nodes else f"{place} (gone)")
        for name, place in sorted(catalogue.tags.items())
    ]
    return table(("tag", "names"), rows) if rows else f"{catalogue.store} has no tags"


def retention(older_than: str, unfinished: str, derived: bool, runs: bool) -> Retention:
    """What stays, of ages as people write them: 12h, 30d, 8w."""
    ages = seconds(older_than, "--older-than"), seconds(unfinished, "--unfinished")
    return Retention(*ages, derived, runs)


def gc(store: str | None, kept: Retention, display: Display, yes: bool = False) -> tuple[Plan, str]:
    """What gc would take away, or, with `yes`, has taken away; and that in words."""
    plan = plan_gc(survey(store_url(store)), kept)
    text = gc_text(plan)
    if not yes:
        closing = DRY if plan.removals else ""
        return plan, "\n".join(filter(None, [text, closing]))
    with display:
        collect(plan, display)
    return plan, f"{text}\nremoved"


def gc_text(plan: Plan) -> str:
    """The plan as a table: what goes, why, how large."""
    stays = f"{len(plan.kept)} artifacts stay"
    if not plan.removals:
        return f"nothing to remove from {plan.catalogue.store}; {stays}"
    rows = [
        (_name(plan.catalogue, each.place), each.what, size(each.bytes), each.why)
        for each in plan.removals[:SHOWN]
    ]
    rest = len(plan.removals) - len(rows)
    more = [f"and {rest} more"] if rest else []
    total = f"{len(plan.removals)} things, {size(plan.bytes)}; {stays}"
    return "\n".join([table(("what", "kind", "size", "why"), rows, right=(2,)), *more, total])


def _name(catalogue: Catalogue, place: str) -> str:
    node = catalogue.nodes.get(place)
    return node.label if node else place


@dataclass(frozen=True)
class Verified:
    """What verify found: how much it looked at, and what is damaged."""

    artifacts: int
    damage: Sequence[Damage]
    text: str


def verify(
    options: Options, names: Sequence[str], display: Display, quick: bool = False
) -> Verified:
    """Check artifacts by name, or the whole store; the recipe's `run` says where it is done."""
    run = load_recipe(options.recipe, options.overrides).run
    catalogue = survey(store_url(options.store))
    if not catalogue.nodes:
        raise SluiceError(f"{catalogue.store} holds nothing", "give --store")
    with display, run.runner() as runner:
        count, damage = verify_store(catalogue, runner, display, names, quick)
    return Verified(count, damage, _verified_text(catalogue, count, damage, quick))


def _verified_text(catalogue: Catalogue, count: int, damage: Sequence[Damage], quick: bool) -> str:
    unfinished = sum(node.state == UNFINISHED for node in catalogue.nodes.values())
    more = f"; {unfinished} unfinished (`prefect run gc`)" if unfinished else ""
    what = "sizes of all files" if quick else "every file"
    if not damage:
        return f"{count} artifacts: {what} as committed{more}"
    lines: list[str] = []
    for place in dict.fromkeys(each.place for each in damage):
        found = [each for each in damage if each.place == place]
        lines += [f"{_name(catalogue, place)}: {each.path} {each.what}".replace(":  ", ": ")
                  for each in found]  # fmt: skip
        lines.append(f"  way out: {_way_out(catalogue, place, found)}")
    return "\n".join([*lines, f"{len(damage)} damaged, in {count} artifacts{more}"])


def _way_out(catalogue: Catalogue, place: str, found: Sequence[Damage]) -> str:
    node = catalogue.nodes.get(place)
    if node is None:
        if place.startswith("tag "):
            return f"prefect run tag {place.removeprefix('tag ')} --remove"
        return "run the recipe again that made it: its last step points anew"
    if all("://" in each.path or each.path.startswith("/") for each in found):
        return "put that tar back as it was, or ingest anew from what there is"
    command = _command(node.stage)
    how = f"run `prefect run {command}` again with its recipe" if command else "make it again"
    return f"remove {catalogue.url(place)} and {how}: the store rebuilds what is not there"


def _command(stage: str) -> str:
    while stage:
        if stage in COMMANDS:
            return COMMANDS[stage]
        stage = stage.rpartition(".")[0]
    return ""
