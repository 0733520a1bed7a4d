"""The commands that look after a store; what they say of themselves stands in flows.cli."""

from typing import Annotated

from cyclopts import Parameter

from flows.cli import FAILED, Choices, guarded

Store = Annotated[str | None, Parameter(name="--store")]


def tag(
    name: str | None = None,
    version: str | None = None,
    /,
    *,
    remove: Annotated[bool, Parameter(name="--remove", negative=())] = False,
    store: Store = None,
) -> None:
    """Name a version, a run or an index that gc is to keep; without names, list the tags.

    Parameters
    ----------
    name
        The tag.
    version
        What it is to name: NAME, its latest version, NAME@VERSION, or a place in the store.
    remove
        Take the tag away.
    store
        Where versions live: a folder or a URL such as s3://bucket/store.
    """

    def action() -> None:
        from flows.store import upkeep

        done = upkeep.tag(store, name, version, remove) if name else upkeep.tags(store)
        print(done, flush=True)

    guarded(action)


def gc(
    *,
    yes: Annotated[bool, Parameter(name="--yes", negative=())] = False,
    older_than: Annotated[str, Parameter(name="--older-than")] = "30d",
    unfinished: Annotated[str, Parameter(name="--unfinished")] = "7d",
    derived: Annotated[bool, Parameter(name="--derived", negative=())] = False,
    runs: Annotated[bool, Parameter(name="--runs", negative=())] = False,
    store: Store = None,
) -> None:
    """Tell, and with --yes remove, what of a store nobody needs any more.

    Parameters
    ----------
    yes
        Do it. Without, nothing is removed.
    older_than
        Keep what was made since, and all that it refers to: 12h, 30d, 8w.
    unfinished
        Leave unfinished artifacts alone that were written to since: somebody may go on with them.
    derived
        Also scores, verdicts and indexes of versions that stay, where nothing refers to them.
    runs
        Also runs, evaluations and races, unless they are recent, tagged, or all that they were
        made of stays.
    store
        Where versions live: a folder or a URL such as s3://bucket/store.
    """

    def action() -> None:
        from flows.store.text import seconds
        from flows.store.upkeep import gc
        from infra.gc import Retention
        from infra.progress import display

        retention = Retention(
            seconds(older_than, "--older-than"),
            seconds(unfinished, "--unfinished"),
            derived,
            runs,
        )
        print(gc(store, retention, display(), yes)[1], flush=True)

    guarded(action)


def verify(
    *names: str,
    quick: Annotated[bool, Parameter(name="--quick", negative=())] = False,
    choices: Choices | None = None,
) -> None:
    """Read what a store holds again, and tell what is not as it was committed.

    Parameters
    ----------
    names
        NAME, NAME@VERSION, a tag, or a place in the store; all of it without.
    quick
        Sizes alone: nothing is read.
    """

    def action() -> None:
        from flows.store.upkeep import verify
        from infra.progress import display

        done = verify((choices or Choices()).options(), names, display(), quick)
        print(done.text, flush=True)
        if done.damage:
            raise SystemExit(FAILED)

    guarded(action)
