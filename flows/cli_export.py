"""The command `export` with its choices; what it says of itself stands in flows.cli."""

from typing import Annotated, Literal

from cyclopts import Parameter

from flows.cli import Choices, guarded


def export(
    dataset: str,
    /,
    *,
    to: Annotated[str, Parameter(name="--to")],
    samples_per_shard: Annotated[int, Parameter(name="--samples-per-shard")] = 10_000,
    bytes_per_shard: Annotated[int | None, Parameter(name="--bytes-per-shard")] = None,
    column: Annotated[tuple[str, ...], Parameter(name="--column", negative=())] = ("uid",),
    drop_patches: Annotated[bool, Parameter(name="--drop-patches", negative=())] = False,
    format: Annotated[
        Literal["img2dataset", "subset", "clip-retrieval", "datacomp"], Parameter(name="--format")
    ] = "img2dataset",
    scorer: Annotated[str, Parameter(name="--scorer")] = "clip",
    verdicts: Annotated[str | None, Parameter(name="--verdicts")] = None,
    choices: Choices | None = None,
) -> None:
    """Write a version, its uids or its embeddings as other tools have them.

    Parameters
    ----------
    dataset
        The version: NAME, its latest one, or NAME@VERSION.
    to
        An empty or new folder, or a URL; of a subset, the file.
    samples_per_shard
        Images in each tar.
    bytes_per_shard
        Bytes of images in each tar, instead of a number of them.
    column
        More columns: of rows/, or of what rode along as NAME:string|int64|float64|bool.
    drop_patches
        Fill the patches that the version's plan leaves out: smaller files, other bytes.
    format
        img2dataset: tars. subset: the sorted uids as DataComp's `u8,u8` npy. clip-retrieval:
        img_emb, text_emb and metadata. datacomp: pairs of .parquet and .npz.
    scorer
        Of embeddings: whose, by the scorer's name or its score folder.
    verdicts
        Of a subset: the digest of verdicts over the version, to take the uids that they keep.
    """

    def action() -> None:
        from flows.export import export, export_subset, export_vectors
        from infra.progress import display

        options = (choices or Choices()).options()
        if format == "subset":
            print(export_subset(options, dataset, to, verdicts), flush=True)
            return
        if format != "img2dataset":
            print(export_vectors(options, dataset, to, format, scorer), flush=True)
            return
        cut = {"samples_per_shard": samples_per_shard, "bytes_per_shard": bytes_per_shard}
        more = {"columns": column, "drop_patches": drop_patches}
        print(export(options, dataset, to, display(), **more, **cut), flush=True)

    guarded(action)
