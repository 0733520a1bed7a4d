"""Which backbone can carry which objective: one real step of a small batch of noise tells."""

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from pydantic import ValidationError

from indexes import outside
from infra.errors import SluiceError
from pretrain import capabilities, objectives, options
from pretrain.backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageSizeError,
    build_clip,
    build_encoder,
    clip_files,
)
from pretrain.data import Batch
from pretrain.declare import TINY_CLIP
from pretrain.settings import TrainSettings

USUAL = 224  # pixels that a model is made for which says nothing
BATCH = 2  # or what an objective needs at least
CLASSES = ("a", "b")
FIELDS = {"labels": ["a"]}  # of every sample of the batch
RECORD = {
    "classes": np.asarray([[0, 1]], np.uint16),
    "probabilities": np.asarray([[0.6, 0.4]], np.float16),
    "box": np.asarray([[0, 0, 65535, 65535]], np.uint16),
    "flip": np.zeros(1, np.uint8),
}
MAP = {
    "classes": np.zeros((2, 2, 1), np.uint16),
    "scores": np.ones((2, 2, 1), np.float16),
}
COLUMNS = {"teacher": RECORD, "label_map": MAP}  # likewise
Outcome = Literal["yes", "no", "size", "fails"]


@dataclass(frozen=True)
class Verdict:
    """yes: a step was taken. no: refused before one, `reason` says why. size: refused for this size
    of images; another may do. fails: neither; a defect, either of the check that should have
    refused, or of the network.
    """

    outcome: Outcome
    reason: str = ""

    def __bool__(self) -> bool:
        return self.outcome == "yes"


def can(backbone: str, objective: str, image_size: int | None = None) -> Verdict:
    """Whether `objective` can train the timm model `backbone`, by building both and one step.

    image_size: pixels; without it those the model is made for, or `USUAL`. Raises
    SluiceError for names that are none. An objective with two towers gets the model as its image
    tower.

    >>> can("resnet18", "mae").reason
    'mae cannot train a ResNet: it must be able to drop patches'
    """
    outside.check(backbone)
    if objective not in options.names():
        raise SluiceError(
            f"there is no objective {objective!r}", f"use one of {', '.join(options.names())}"
        )
    made_for = timm.get_pretrained_cfg(backbone)  # None of a model of another package
    size = image_size or (made_for.input_size[-1] if made_for else USUAL)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            torch.random.fork_rng(devices=[]),
            capabilities.unheeded(),
        ):
            return _step(_settings(backbone, objective, size, folder))
    except ValidationError as error:
        return Verdict("no", "; ".join(each["msg"] for each in error.errors()))
    except ImageSizeError as error:
        return Verdict("size", error.what)
    except SluiceError as error:
        return Verdict("no", error.what)
    except Exception as error:  # whatever a network raises
        return Verdict("fails", f"{type(error).__name__}: {error}".splitlines()[0][:300])


def _settings(backbone: str, objective: str, size: int, folder: str) -> TrainSettings:
    """Of the probe's step; a teacher, where one is needed, is the same network in `folder`."""
    declared = options.declared(objective)
    towers = declared.needs.model == "open_clip"
    tower = {"timm_model_name": backbone, "timm_model_pretrained": False, "image_size": size}
    common: dict[str, Any] = {
        "objective": objective,
        "model": {**TINY_CLIP, "vision_cfg": tower} if towers else backbone,
        "image_size": size,
        "batch": max(BATCH, declared.needs.least_batch),
        "steps": 4,
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    asked = dict(declared.probe)
    if asked.keys() & declared.options.WEIGHTS:
        plain = {**common, "objective": "clip" if towers else "rotnet"}
        _write_network(TrainSettings.model_validate(plain), Path(folder), towers)
        asked |= dict.fromkeys(asked.keys() & declared.options.WEIGHTS, folder)
    return TrainSettings.model_validate({**common, "options": asked})


def _write_network(settings: TrainSettings, folder: Path, towers: bool) -> None:
    files = (
        clip_files(build_clip(settings))
        if towers
        else build_encoder(settings).files(IMAGENET_MEAN, IMAGENET_STD)
    )
    for path, data in files:
        (folder / path).write_bytes(data)


def _step(settings: TrainSettings) -> Verdict:
    objective = objectives.build(settings)
    objective.train()
    torch.manual_seed(0)
    with torch.no_grad():
        views = objective.views(_noise(settings), torch.device("cpu"))
    loss, _ = objective(views, 0.5)
    loss.backward()
    objective.before_update(0.5)
    objective.after_update(0.5)
    if not math.isfinite(loss.item()):
        return Verdict("fails", f"the loss is {loss.item()}")
    gradients = [each.grad for each in objective.trained() if each.grad is not None]
    if not any(bool(gradient.any()) for gradient in gradients):
        return Verdict("fails", "no weight has a gradient")
    return Verdict("yes")


def _noise(settings: TrainSettings) -> Batch:
    """Two samples of a class each: one that compares classes meets its own, of three another."""
    side, count, rng = settings.canvas_size, settings.batch, np.random.default_rng(0)
    concepts = [CLASSES[place // 2 % len(CLASSES)] for place in range(count)]
    return Batch(
        images=rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
        sizes=np.full((count, 2), side, np.float32),
        captions=[f"a photo of {place}" for place in range(count)],
        ids=np.arange(count),
        sources=np.zeros(count, np.int64),
        places=np.arange(count),
        state={},
        texts=[json.dumps({"concept": concept, **FIELDS}) for concept in concepts],
        columns=[COLUMNS] * count,
    )
