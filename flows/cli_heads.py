"""The command `head` with its subcommands: train, convert, show."""

from typing import Annotated

from cyclopts import App, Parameter

from curation.heads.card import Activation, Output, Polarity
from flows.cli import guarded

app = App(
    name="head",
    help="""Train heads over embeddings, convert published ones, look at one.

    Example, to see what a head reads and what its score means:

        prefect run head show aesthetic.safetensors
    """,
    help_flags=["--help"],
    version_flags=[],
    help_format="markdown",
)
app["--help"].group = ""


@app.command(sort_key=0)
def train(
    *,
    version: Annotated[str, Parameter(name="--version")],
    labels: Annotated[str, Parameter(name="--labels")],
    label: Annotated[str, Parameter(name="--label")],
    output: Annotated[str, Parameter(name="--output")],
    polarity: Annotated[Polarity | None, Parameter(name="--polarity")] = None,
    uid: Annotated[str, Parameter(name="--uid")] = "uid",
    vectors: Annotated[str, Parameter(name="--vectors")] = "clip/image",
    units: Annotated[str | None, Parameter(name="--units")] = None,
    hidden: Annotated[tuple[int, ...], Parameter(name="--hidden", negative=())] = (),
    threshold: Annotated[float, Parameter(name="--threshold")] = 0.5,
    held_out: Annotated[float, Parameter(name="--held-out")] = 0.2,
    seed: Annotated[int, Parameter(name="--seed")] = 0,
    store: Annotated[str | None, Parameter(name="--store")] = None,
) -> None:
    """Train a head on labelled samples of a version and report its calibration.

    Example, with labels 0 and 1:

        prefect run head train --version pool --labels labels.csv --label watermark
        --polarity "higher is worse" --output watermark.safetensors

    Parameters
    ----------
    version
        The version with scores: NAME, its latest one, or NAME@VERSION.
    labels
        A table of uids and labels: Parquet or CSV.
    label
        Its column of labels: true, false, 0 and 1 are learnt as chances, other numbers as such,
        words as classes.
    output
        The file to write, HEAD.safetensors; its report goes to HEAD.html and HEAD.json.
    polarity
        What a high score means; of several classes nothing is said.
    uid
        The table's column of uids.
    vectors
        What it reads, as SCORER/VECTOR.
    units
        Of its score; else "probability", or the label's name.
    hidden
        Width of a hidden layer with ReLU. Repeatable; without it the head is linear.
    threshold
        At which precision and recall are told, beside those that always are.
    held_out
        Share of the labels that is kept for the figures.
    seed
        Of the first weights of hidden layers.
    store
        Where versions live: a folder or a URL such as s3://bucket/store.
    """

    def action() -> None:
        from flows.heads import train

        more = {"uid": uid, "vectors": vectors, "units": units, "hidden": hidden, "seed": seed}
        more |= {"label": label, "polarity": polarity}
        more |= {"threshold": threshold, "held_out": held_out}
        print(train(store, version, labels, output, **more), flush=True)

    guarded(action)


@app.command(sort_key=1)
def convert(
    file: str,
    /,
    *,
    to: Annotated[str, Parameter(name="--to")],
    embedding: Annotated[str, Parameter(name="--embedding")],
    units: Annotated[str, Parameter(name="--units")],
    polarity: Annotated[Polarity | None, Parameter(name="--polarity")] = None,
    activation: Annotated[
        tuple[Activation, ...], Parameter(name="--activation", negative=(), show_default=False)
    ] = (),
    output: Annotated[Output, Parameter(name="--output")] = "none",
    classes: Annotated[
        tuple[str, ...], Parameter(name="--class", negative=(), show_default=False)
    ] = (),
) -> None:
    """Write a published checkpoint as safetensors, without running what stands in it.

    Example, for LAION's aesthetic predictor V2:

        prefect run head convert sac+logos+ava1-l14-linearMSE.pth --to aesthetic.safetensors
        --embedding ViT-L-14/openai --units "aesthetic score 1..10" --polarity "higher is better"

    Parameters
    ----------
    file
        The checkpoint: .pth, .pt or plain safetensors.
    to
        The file to write, HEAD.safetensors.
    embedding
        What made the vectors it reads, as open_clip's MODEL/PRETRAINED.
    units
        Of its score.
    polarity
        What a high score means; of a softmax over classes nothing is said.
    activation
        What follows a layer, one for each in order; heads of LAION are known without.
    output
        What is applied last, where activations are given.
    classes
        Name of an output of a softmax, in order. Repeatable; each is a column of the score.
    """

    def action() -> None:
        from flows.heads import convert

        said = convert(file, to, embedding, units, polarity, activation, output, classes)
        print(said, flush=True)

    guarded(action)


@app.command(sort_key=2)
def show(file: str, /) -> None:
    """Tell what a head reads and what its score means.

    Example:

        prefect run head show aesthetic.safetensors

    Parameters
    ----------
    file
        A head's safetensors file.
    """

    def action() -> None:
        from flows.heads import show

        print(show(file), flush=True)

    guarded(action)
