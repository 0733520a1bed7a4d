"""The command `takedown` with its choices; what it says of itself stands in flows.cli."""

from typing import Annotated

from cyclopts import Parameter

from flows import environment
from flows.cli import FAILED, Choices, guarded


def takedown(
    *,
    uids: Annotated[str | None, Parameter(name="--uids")] = None,
    urls: Annotated[str | None, Parameter(name="--urls")] = None,
    domains: Annotated[str | None, Parameter(name="--domains")] = None,
    hashes: Annotated[str | None, Parameter(name="--hashes")] = None,
    reason: Annotated[str, Parameter(name="--reason", show_default=False)] = "",
    plan: Annotated[bool, Parameter(name="--plan", negative=(), show_default=False)] = False,
    verify: Annotated[str | None, Parameter(name="--verify")] = None,
    deep: Annotated[bool, Parameter(name="--deep", negative=(), show_default=False)] = False,
    choices: Choices | None = None,
) -> None:
    """Take samples out of every version and index, for good.

    Parameters
    ----------
    uids
        A file of uids, 32 hex characters: one a line, or CSV or Parquet with a column `uid`.
    urls
        A file of URLs (column `url`).
    domains
        A file of domains, with all that lies under them (column `domain`).
    hashes
        A file of SHA-256 or MD5 of image files (column `hash`); for an MD5 every image is read.
    reason
        Why; it stands in the record.
    plan
        Only tell what would go; write nothing.
    verify
        Check that nothing remains of a takedown: its id, or `latest`.
    deep
        With --verify: hash the images of every tar of the store, not only of rewritten ones.
    """

    def action() -> None:
        from flows.main import store_url
        from flows.takedown import main
        from infra.progress import display

        chosen = choices or Choices()
        store = store_url(chosen.store)
        where = main.where_to_run(chosen.recipe, chosen.overrides)
        asked = main.TakedownOptions(uids, urls, domains, hashes, reason)
        if verify is not None:
            from flows.takedown.verify import verify as verify_record

            told, clean = verify_record(store, verify, deep, where, display())
            print(told, flush=True)
            if not clean:
                raise SystemExit(FAILED)
            return
        asked.entries()  # what is wrong with a file is told before Prefect starts
        if plan:
            print(main.plan(store, asked, where, display()), flush=True)
            return
        from flows.prefect_flows import takedown as flow

        try:
            more = (chosen.recipe, list(chosen.overrides), store)
            print(flow(uids, urls, domains, hashes, reason, *more), flush=True)
        finally:
            environment.quiet_exit()

    guarded(action)
