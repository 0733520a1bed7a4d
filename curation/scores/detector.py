"""Whether an image shows what it should: the class that its row names, by an object detector."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from curation.decode import Pixels
from curation.networks import HUB, find_place, first_line, library, whole_weights
from curation.score import Batch, Ready, Scores, filled
from curation.scores.clip import content_name
from curation.units import BETTER, column
from infra.errors import SluiceError


@dataclass(frozen=True)
class DetectorScorer:
    """Columns, null for images that cannot be decoded:

    confidence   float32 0..1, the best of what was found and has the class that the row's meta
                 names in `label`; 0 where the detector knows that class and found none of it,
                 null where the row names none, or one that the detector does not know
    found        string, the class of the most confident detection
    found_confidence   float32 0..1, how confident it is

    Any object-detection model of transformers, from a folder or a hub; weights as safetensors
    alone, no code of the model's own. Classes are compared by name, whatever their case. Images
    are looked at one by one: beside larger ones a detector would pad them, and find other things.
    """

    name: str
    model: str
    label: str

    code = 1
    reads_images = True
    reads_vectors = ()
    vectors = ()
    columns = pa.schema(
        [
            column("confidence", pa.float32(), "probability", BETTER),
            pa.field("found", pa.string()),
            column("found_confidence", pa.float32(), "probability"),
        ]
    )

    def settings(self) -> Mapping[str, Any]:
        return {"kind": "detector", "model": content_name(self.model), "label": self.label}

    def ready(self) -> Ready:
        return Ready(_as_it_is, load_detector(self.model).device != "cpu")

    def score(self, batch: Batch) -> Scores:
        positions, images = batch.decoded()
        meta: list[str | None] = batch.rows["meta"].to_pylist()
        wanted = [label_of(meta[position], self.label) for position in positions]
        detector = load_detector(self.model) if positions else None
        found = [detector.look(image) if detector else [] for image in images]
        best = [max(each, key=lambda one: one.confidence, default=None) for each in found]
        values: dict[str, list[Any]] = {
            "confidence": [
                confidence(each, label, detector.known) if detector else None
                for each, label in zip(found, wanted, strict=True)
            ],
            "found": [one and one.label for one in best],
            "found_confidence": [one and one.confidence for one in best],
        }
        columns = {
            field.name: filled(len(batch), positions, values[field.name], field.type)
            for field in self.columns
        }
        return Scores(pa.table(columns))


def _as_it_is(image: Pixels) -> Pixels:
    return image


class Found(NamedTuple):
    """A detection: its class, and a confidence of 0..1."""

    label: str
    confidence: float


def confidence(found: Sequence[Found], label: str | None, known: frozenset[str]) -> float | None:
    """The best confidence of a class; None for a class that nobody named, or knows."""
    if label is None or label.casefold() not in known:
        return None
    same = [one.confidence for one in found if one.label.casefold() == label.casefold()]
    return max(same, default=0.0)


def label_of(meta: str | None, name: str) -> str | None:
    """The class in a row's meta; None where there is none, or no text."""
    with contextlib.suppress(ValueError, RecursionError):
        facts = json.loads(meta or "{}")
        value = facts.get(name) if isinstance(facts, dict) else None
        return value if isinstance(value, str) and value else None
    return None


@dataclass(frozen=True, eq=False)
class Detector:
    """A loaded detector; known: its classes, casefolded."""

    model: Any
    processor: Any
    device: str
    known: frozenset[str]

    def look(self, image: Pixels) -> list[Found]:
        """uint8 RGB [height, width, 3] -> what is seen, however unlikely."""
        import torch

        inputs = self.processor(
            images=image.copy(), return_tensors="pt", input_data_format="channels_last"
        )
        with torch.inference_mode():
            outputs = self.model(**inputs.to(self.device))
        (answer,) = self.processor.post_process_object_detection(
            outputs, threshold=0.0, target_sizes=[image.shape[:2]]
        )
        names: Mapping[int, str] = self.model.config.id2label
        scores, labels = (answer[key].cpu().numpy() for key in ("scores", "labels"))
        return [
            Found(names[int(label)], float(score))
            for score, label in zip(scores, labels, strict=True)
            if np.isfinite(score) and int(label) in names
        ]


@lru_cache(maxsize=1)
def load_detector(model: str) -> Detector:
    """The detector, loaded once per process, onto a GPU where this process sees one.

    Raises SluiceError for what is no object detector, is not whole, or is not reached.
    """
    import torch

    from indexes.hub import hub_reachable, offline_hub

    transformers = library("transformers")
    kinds = f"a detector is a folder that transformers saved, or {HUB}OWNER/NAME"
    place, on_hub = find_place(model, kinds)
    offline = not on_hub or not hub_reachable()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(whole_weights(model, "transformers"))
            if offline:
                stack.enter_context(offline_hub())
            options = {"trust_remote_code": False, "local_files_only": offline}
            processor = transformers.AutoImageProcessor.from_pretrained(place, **options)
            network = transformers.AutoModelForObjectDetection.from_pretrained(
                place, use_safetensors=True, **options
            )
    except SluiceError:
        raise
    except Exception as error:  # transformers raises whatever the layer below raised
        why = first_line(error)
        raise SluiceError(f"cannot load the detector {model}: {why}", kinds) from error
    if not hasattr(processor, "post_process_object_detection"):
        raise SluiceError(f"{model} is no object detector", kinds)
    names: Mapping[int, str] = network.config.id2label
    known = frozenset(name.casefold() for name in names.values())
    network = network.to(device).eval().requires_grad_(False)
    return Detector(network, processor, device, known)
