"""Checkpoints of heads as safetensors with a card; nothing in them is run."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from curation.heads.card import Activation, Card, Output, Polarity, mistake
from curation.heads.file import PICKLES, head_bytes, read_limited, read_tensors
from curation.heads.head import Floats
from curation.heads.published import in_order, recognised
from infra.errors import SluiceError

NESTED = ("state_dict", "model_state_dict")  # where a checkpoint of a training keeps its weights


def convert_head(
    file: str,
    embedding: str,
    units: str,
    polarity: Polarity | None,
    activations: Sequence[Activation] = (),
    output: Output = "none",
    classes: Sequence[str] = (),
) -> bytes:
    """The bytes of a head's file from `.pth`, `.pt` or plain safetensors at a URL.

    activations: one for each layer, where the head is none of `published`; `output` and `classes`
    count only then. SluiceError where the file holds anything but tensors, or they make no head.
    """
    tensors = _state(file)
    known = recognised(tensors) if not activations else None
    if known is None and not activations:
        shown = [f"{name} {list(value.shape)}" for name, value in sorted(tensors.items())[:8]]
        raise SluiceError(
            f"{file} is of no head known here: {', '.join(shown)}",
            "say what follows each layer: one `--activation` each, `none` for the last",
        )
    layers = known.layers if known else in_order(tensors)
    if known is None and len(layers) != len(activations):
        raise SluiceError(
            f"{file} has {len(layers)} layers, {len(activations)} activations are given",
            f"give one `--activation` for each of {', '.join(layers)}",
        )
    first = tensors[f"{layers[0]}weight"]
    try:
        card = Card(
            activations=known.activations if known else tuple(activations),
            output=known.output if known else output,
            dimension=int(first.shape[-1]) if first.ndim else 1,
            embedding=embedding,
            units=units,
            polarity=polarity,
            classes=() if known else tuple(classes),
            source=f"{known.name if known else 'head'}, from {file.rpartition('/')[2]}",
        )
    except ValidationError as error:
        raise SluiceError(
            f"what is said of {file} does not fit: {mistake(error)}",
            "say --output softmax with a --class for each output, or --polarity",
        ) from error
    return head_bytes(card, tensors, layers)


def _state(file: str) -> dict[str, Floats]:
    """The tensors of a file, float32 by name."""
    data = read_limited(file)
    if not data.startswith(PICKLES) or data[8:9] == b"{":  # the latter is safetensors' header
        return read_tensors(file)[0]
    import torch

    try:
        loaded: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its reader raised
        raise SluiceError(
            f"{file} cannot be read as tensors alone: {str(error).splitlines()[0][:200]}",
            "save `model.state_dict()` of the head, nothing else",
        ) from error
    while isinstance(loaded, Mapping) and (inner := [k for k in NESTED if k in loaded]):
        loaded = loaded[inner[0]]
    if not (isinstance(loaded, Mapping) and loaded) or not all(
        isinstance(value, torch.Tensor) for value in loaded.values()
    ):
        raise SluiceError(f"{file} holds no state dict", "save `model.state_dict()` of the head")
    return {str(name): np.asarray(value.float().numpy()) for name, value in loaded.items()}


def describe(card: Card) -> str:
    """What a head says of itself, a line each."""
    meaning = ("classes", ", ".join(card.classes)) if card.classes else ("polarity", card.polarity)
    lines = [
        f"embedding   {card.embedding}",
        f"dimension   {card.dimension}",
        f"layers      {', '.join(card.activations)}; output {card.output}",
        f"units       {card.units}",
        f"{meaning[0]:12}{meaning[1]}",
        f"source      {card.source or 'not said'}",
    ]
    figures: Mapping[str, Any] = card.training.get("held_out", {})
    lines += [f"held out    {name} {value:.4f}" for name, value in figures.items()]
    return "\n".join(lines)
