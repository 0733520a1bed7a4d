"""Heads as files: safetensors with a card, or the plain tensors that others published.

    layers.0.weight, layers.0.bias, layers.1.weight, ...    float32 [out, in], [out]
    norm.mean, norm.variance                                float32 [dimension], where there are

Nothing is ever unpickled.
"""

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import ValidationError

from curation.heads.card import Card, Polarity, mistake, same_embedding
from curation.heads.head import Floats, Head
from curation.heads.published import NORM, recognised
from infra import filesystem
from infra.errors import SluiceError

KEY = "sluice_head"  # of the card; one key, because safetensors orders several at random
FILE_LIMIT = 2**28  # bytes: ten times the largest head that was published
LEAST_DEVIATION = 1e-7  # as Keras normalises a number that never varied
KINDS = ("F16", "F32", "F64")
PICKLES = (b"PK\x03\x04", b"\x80")  # a zip as torch.save writes it, a bare pickle
CONVERT = "convert it: `prefect run head convert FILE --to HEAD.safetensors ...`"


@dataclass(frozen=True)
class Declared:
    """What a recipe says of a head whose file does not."""

    embedding: str | None = None
    units: str | None = None
    polarity: Polarity | None = None


def load_head(file: str, declared: Declared | None = None) -> Head:
    """The head at a URL; SluiceError where it is none, is damaged, or contradicts the recipe."""
    declared = declared or Declared()
    tensors, text = read_tensors(file)
    card = _card(file, text) if text is not None else _plain_card(file, tensors, declared)
    stated = card.model_dump()
    for name, value in vars(declared).items():
        same = same_embedding if name == "embedding" else operator.eq
        if value is not None and not same(value, stated[name]):
            raise SluiceError(
                f"the recipe says {name} {value!r}, {file} says {stated[name]!r}",
                f"leave `{name}` out of the recipe, or name another file",
            )
    if text is None:
        known = recognised(tensors)
        assert known is not None
        return make_head(file, card, tensors, known.layers)
    return make_head(
        file, card, tensors, tuple(f"layers.{i}." for i in range(len(card.activations)))
    )


def read_tensors(file: str) -> tuple[dict[str, Floats], str | None]:
    """The tensors of a safetensors file as float32, and its card as JSON where it has one."""
    data = read_limited(file)
    try:
        kinds = {str(entry["dtype"]) for _, entry in safetensors.deserialize(data)}
        if kinds - set(KINDS):
            raise SluiceError(
                f"{file} holds numbers of type {', '.join(sorted(kinds - set(KINDS)))}",
                f"store the head as one of {', '.join(KINDS)}",
            )
        tensors = safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        if data.startswith(PICKLES):
            what = "is a PyTorch checkpoint: reading such a file may run what stands in it"
        else:
            what = f"is no whole safetensors file: {error}"
        raise SluiceError(f"{file} {what}", CONVERT) from error
    length = int.from_bytes(data[:8], "little")
    text = json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(KEY)
    with np.errstate(over="ignore"):  # what is too large for float32 is refused as not finite
        return {name: value.astype(np.float32) for name, value in tensors.items()}, text


def read_limited(file: str) -> bytes:
    """The bytes of a file that may be a head; SluiceError where it is too large for one."""
    try:
        with filesystem.open_read(file) as raw:
            data = raw.read(FILE_LIMIT + 1)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise SluiceError(f"there is no head at {file}", "check the name") from error
    if len(data) > FILE_LIMIT:
        raise SluiceError(
            f"{file} is larger than {FILE_LIMIT} bytes: that is a network, not a head over vectors",
            "name the head's file",
        )
    return data


def _card(file: str, text: str) -> Card:
    try:
        return Card.model_validate_json(text)
    except ValidationError as error:
        raise SluiceError(
            f"{file}: its metadata is wrong at {mistake(error)}", "convert or train it again"
        ) from error


def _plain_card(file: str, tensors: Mapping[str, Floats], declared: Declared) -> Card:
    """The card of tensors without one: the architecture from names and shapes, the rest told."""
    known = recognised(tensors)
    if known is None:
        shown = [f"{name} {list(value.shape)}" for name, value in sorted(tensors.items())[:8]]
        raise SluiceError(
            f"{file} says nothing of its layers, and its tensors are of no head known here: "
            f"{', '.join(shown)}",
            f"{CONVERT} with `--activation` for each layer",
        )
    if not (declared.embedding and declared.units and declared.polarity):
        missing = [name for name, value in vars(declared).items() if value is None]
        raise SluiceError(
            f"{file} does not say its {', '.join(missing)}",
            f"say so in the recipe beside `file`, or {CONVERT}",
        )
    return Card(
        activations=known.activations,
        output=known.output,
        dimension=int(tensors[f"{known.layers[0]}weight"].shape[1]),
        embedding=declared.embedding,
        units=declared.units,
        polarity=declared.polarity,
        source=known.name,
    )


def make_head(
    file: str, card: Card, tensors: Mapping[str, Floats], layers: tuple[str, ...]
) -> Head:
    """The head of these tensors; SluiceError where they do not fit each other or the card.

    layers: prefixes of `weight` and `bias`, in order.
    """
    names = [f"{prefix}{end}" for prefix in layers for end in ("weight", "bias")]
    norm = NORM if any(name in tensors for name in NORM) else ()
    if set(tensors) != {*names, *norm}:
        odd = sorted(set(tensors) ^ {*names, *norm})
        raise SluiceError(f"{file}: missing or unknown tensors: {', '.join(odd[:8])}", CONVERT)
    width = card.dimension
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(norm, (width,))
    for place, prefix in enumerate(layers):
        bias = tensors[f"{prefix}bias"].shape
        out = card.outputs if place == len(layers) - 1 else bias[0] if len(bias) == 1 else 1
        shapes |= {f"{prefix}weight": (out, width), f"{prefix}bias": (out,)}
        width = out
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise SluiceError(
                f"{file}: {name} has shape {list(tensors[name].shape)}, its place asks for "
                f"{list(shape)} (vectors of {card.dimension} numbers, {card.outputs} out)",
                CONVERT,
            )
        if not np.isfinite(tensors[name]).all():
            raise SluiceError(
                f"{file}: {name} holds values that are not numbers",
                "its training diverged or the file is damaged: name another head",
            )
    if norm and (tensors[norm[1]] < 0).any():
        raise SluiceError(f"{file}: {norm[1]} holds a negative variance", "name another head")
    return Head(
        card,
        tuple(tensors[f"{prefix}weight"] for prefix in layers),
        tuple(tensors[f"{prefix}bias"] for prefix in layers),
        tensors[norm[0]] if norm else None,
        np.maximum(np.sqrt(tensors[norm[1]]), LEAST_DEVIATION).astype(np.float32) if norm else None,
    )


def head_bytes(card: Card, tensors: Mapping[str, Floats], layers: tuple[str, ...]) -> bytes:
    """A head's file; equal heads give equal bytes. SluiceError where the parts do not fit."""
    make_head("the head", card, tensors, layers)
    renamed = {
        f"layers.{place}.{end}": tensors[f"{prefix}{end}"]
        for place, prefix in enumerate(layers)
        for end in ("weight", "bias")
    }
    renamed |= {name: tensors[name] for name in NORM if name in tensors}
    plain = {name: np.ascontiguousarray(value, np.float32) for name, value in renamed.items()}
    return safetensors.numpy.save(plain, {KEY: card.model_dump_json()})
