"""A step: one stage of a recipe with its inputs bound, known by its digest before it runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from infra import artifacts
from infra.artifacts import Artifact
from infra.progress import Display
from infra.runner import Runner
from infra.stage import Draft, Extra, Item, Work, run_stage

LAUNCHERS = {"ray": "ray", "local": "local", "inline": "local"}


@dataclass(frozen=True)
class Session:
    """What a run lends its steps: workers, and a place to show progress."""

    runner: Runner
    display: Display
    launcher: str  # how training starts: "ray" or "local"
    address: str = "local"  # of the Ray it starts on


@dataclass(frozen=True)
class Step:
    """What is made (`drafts`, by name), what must be there first (`needs`), and how (`run`).

    flow: the smallest flow that includes this step ("ingest", "curate", ...).
    publishes: the dataset whose `latest` pointer this step moves.
    items: its units of work, where it has several; asks for what it needs to be there.
    """

    name: str
    flow: str
    drafts: Mapping[str, Draft]
    run: Callable[[Session], Mapping[str, Artifact]]
    needs: tuple[str, ...] = ()
    publishes: str | None = None
    items: Callable[[], Sequence[Item]] | None = None

    @cached_property
    def draft(self) -> Draft:
        """The only draft of a step that makes one thing."""
        (draft,) = self.drafts.values()
        return draft

    @property
    def trains(self) -> bool:
        """Whether this step is a training run."""
        return any(draft.spec.kind == "run" for draft in self.drafts.values())

    @property
    def stored(self) -> bool:
        """Whether everything this step makes is already there."""
        return all(artifacts.load(draft.url) is not None for draft in self.drafts.values())


def sharded(
    name: str,
    flow: str,
    drafts: Mapping[str, Draft],
    items: Callable[[], Sequence[Item]],
    work: Work,
    needs: Sequence[str] = (),
    publishes: str | None = None,
    extra: Extra | None = None,
    gpu: bool = False,
) -> Step:
    """A step whose work is cut into items that the runner spreads over workers.

    gpu: the work uses a GPU where there is one.
    """

    def run(session: Session) -> Mapping[str, Artifact]:
        made = {key: artifacts.load(draft.url) for key, draft in drafts.items()}
        stored = {key: artifact for key, artifact in made.items() if artifact is not None}
        if len(stored) == len(drafts):
            for artifact in stored.values():
                artifacts.clean_after_kill(artifact.url)
            return stored
        return run_stage(name, drafts, items(), work, session.runner, session.display, extra, gpu)

    return Step(name, flow, drafts, run, tuple(needs), publishes, items)


def closure(steps: Mapping[str, Step], flows: Sequence[str]) -> list[Step]:
    """The steps of these flows and all they need, in an order that respects needs."""
    wanted: dict[str, Step] = {}

    def visit(name: str) -> None:
        if name in wanted:
            return
        for need in steps[name].needs:
            visit(need)
        wanted[name] = steps[name]

    for name, step in steps.items():
        if step.flow in flows:
            visit(name)
    return list(wanted.values())
