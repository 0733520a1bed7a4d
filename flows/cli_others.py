"""Commands whose functions are imported when they are called: what the list says of them.

A command's choices stand in a file of its own (`cli_export.py`, `cli_store.py`, ...).
"""

from cyclopts import App, Group


def register(app: App, run: Group, look: Group, store: Group) -> None:
    """Add them to the command line, each to its group."""
    app.command(
        "flows.cli_race:race",
        help="""Try recipes against each other on one small model.

        Example, with 64,000 samples seen by each run:

            prefect run race --recipes a.yaml b.yaml --budget 64k --seeds 3
        """,
        group=run,
        sort_key=7,
    )
    app.command(
        "flows.cli_simulate:simulate",
        help="""Tell what a run would take at another size on another cluster.

        Example, from the logs of small runs of different size, and of different rows a shard,
        to LAION-5B on the machines of a file:

            prefect run curate --store a --set run.events=a.jsonl ...
            prefect run curate --store b --set run.events=b.jsonl --set data.rows_per_shard=100 ...
            prefect run simulate --log a.jsonl --log b.jsonl --rows 5.85e9 --cluster mine.yaml
        """,
        group=run,
        sort_key=8,
    )
    app.command(
        "flows.cli_export:export",
        help="""Write a version, its uids or its embeddings as other tools have them.

        Examples, with LAION's similarity beside img2dataset's columns; DataComp's subset file;
        embeddings for clip-retrieval's index:

            prefect run export pool --to /data/laion --column uid --column similarity:float64
            prefect run export curated --to /data/subset.npy --format subset
            prefect run export curated --to /data/embeddings --format clip-retrieval
        """,
        group=look,
        sort_key=10,
    )
    app.command(
        "flows.cli_heads:app",
        name="head",
        help="Train heads over embeddings, convert published ones, look at one.",
        group=look,
        sort_key=10,
    )
    app.command(
        "flows.cli_takedown:takedown",
        help="""Take samples out of every version and index, for good.

        Examples, after somebody asked for it; what it would do; and a proof that nothing remains:

            prefect run takedown --uids gone.txt --reason "letter of 3 May" --store /data/store
            prefect run takedown --domains gone.txt --plan --store /data/store
            prefect run takedown --verify latest --store /data/store
        """,
        group=store,
        sort_key=10,
    )
    app.command(
        "flows.cli_store:diff",
        help="""Tell what changed between two versions.

        Examples, of the last two; of two by name, with a page and the uids:

            prefect run diff curated~1 curated
            prefect run diff paper curated --to diff.html --changes changes.parquet
        """,
        group=store,
        sort_key=11,
    )
    app.command(
        "flows.cli_store:lineage",
        help="""Tell what a version or a run is made of, and what of it.

        Examples, of a checkpoint back to its sources and on; of one sample through all versions and
        runs:

            prefect run lineage runs/clip/0123456789abcdef --urls
            prefect run lineage --uid 0123456789abcdef0123456789abcdef
        """,
        group=store,
        sort_key=11,
    )
    app.command(
        "flows.cli_store:verify",
        help="""Tell which files of a store are not as they were committed.

        Examples, of everything; of one version and what was made of it, by sizes alone:

            prefect run verify --store /data/store
            prefect run verify pool@0123456789abcdef --quick
        """,
        group=store,
        sort_key=12,
    )
    app.command(
        "flows.cli_store:gc",
        help="""Remove what of a store nobody needs any more.

        Examples, to see what would go; to remove it, with runs whose data goes:

            prefect run gc --older-than 60d
            prefect run gc --older-than 60d --runs --yes
        """,
        group=store,
        sort_key=13,
    )
    app.command(
        "flows.cli_store:tag",
        help="""Name a version, a run or an index that gc is to keep.

        Examples, to name one, to list all, to take one away:

            prefect run tag paper curated@0123456789abcdef
            prefect run tag
            prefect run tag paper --remove
        """,
        group=store,
        sort_key=14,
    )
