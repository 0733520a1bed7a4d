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
        Keep what was made since, and all that it refers to, and pages of runs: 12h, 30d, 8w.
    unfinished
        Leave unfinished artifacts alone that were written to since, and jobs that were waited for:
        somebody may go on with them.
    derived
        Also scores, verdicts and indexes of versions that stay, where nothing refers to them.
    runs
        Also runs, evaluations and races, unless they are recent, tagged, or all that they were
        made of stays.
    store
        Where versions live: a folder or a URL such as s3://bucket/store.
    """

    def action() -> None:
        from flows.store.upkeep import gc, retention
        from infra.progress import display

        kept = retention(older_than, unfinished, derived, runs)
        print(gc(store, kept, display(), yes)[1], flush=True)

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


def diff(
    old: str,
    new: str,
    /,
    *,
    to: Annotated[str | None, Parameter(name="--to")] = None,
    changes: Annotated[str | None, Parameter(name="--changes")] = None,
    store: Store = None,
) -> None:
    """Tell what two versions have in common and what not.

    Parameters
    ----------
    old
        NAME, its latest version; NAME~1, the one before; NAME@VERSION; or a tag.
    new
        The one to compare with it.
    to
        Also write a page to this file.
    changes
        Also write every uid whose state changed to this Parquet file.
    store
        Where versions live: a folder or a URL such as s3://bucket/store.
    """

    def action() -> None:
        from flows.store.diff import diff, diff_text
        from infra.progress import display

        found = diff(store, old, new, display(), changes)
        print(diff_text(found), flush=True)
        if to is not None:
            from flows.store.page import write_diff_page

            print(f"\npage: {write_diff_page(found, to)}", flush=True)

    guarded(action)


def lineage(
    name: str | None = None,
    /,
    *,
    uid: Annotated[str | None, Parameter(name="--uid")] = None,
    urls: Annotated[bool, Parameter(name="--urls", negative=())] = False,
    json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    store: Store = None,
) -> None:
    """Tell what a version, a run or an index is made of, and what was made of it.

    Parameters
    ----------
    name
        NAME, its latest version; NAME@VERSION; a tag; or a place, `runs/clip/0123456789abcdef`.
    uid
        Of one sample instead: which versions hold it, from where, and which runs saw it.
    urls
        Also count the URLs of the sources, which reads their rows.
    json
        For programs.
    store
        Where versions live: a folder or a URL such as s3://bucket/store.
    """

    def action() -> None:
        from flows.store.lineage import lineage
        from flows.store.trace import trace
        from infra.errors import SluiceError
        from infra.progress import display

        if uid is not None:
            found = trace(store, uid, display(), name)
        elif name is not None:
            found = lineage(store, name, display(), urls)
        else:
            raise SluiceError(
                "nothing is said to look at", "name a version or a run, or give --uid"
            )
        print(found.to_json() if json else found, flush=True)

    guarded(action)
