"""A classifier on a timm network: what the objectives with labels have in common."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import SluiceError
from pretrain.backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TimmEncoder,
    build_encoder,
    to_bytes,
)
from pretrain.data import Batch
from pretrain.labels import Labelled, Taught, dense
from pretrain.objectives.base import Objective
from pretrain.settings import TrainSettings

HEAD, CLASSES = "classifier.safetensors", "classes.json"


def output_width(model: Any) -> int:
    """Numbers that `model(images)` gives for an image: not every family keeps `num_features`."""
    return int(getattr(model, "head_hidden_size", None) or model.num_features)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A classifier's last layer: small weights, no biases at first."""
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-sum(target * log softmax(logits)), averaged over the batch; both [batch, classes]."""
    return -(target * logits.log_softmax(-1)).sum(-1).mean()


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Share of samples whose largest output is their largest target."""
    return (logits.argmax(-1) == target.argmax(-1)).float().mean()


class Classifier(Objective):
    """A timm network, a linear layer on what it gives, and the names of the classes."""

    def __init__(
        self, settings: TrainSettings, encoder: TimmEncoder, classes: Sequence[str]
    ) -> None:
        super().__init__(settings)
        self.encoder = encoder
        self.model = encoder.model
        self.classes = list(classes)
        self.head = linear(output_width(self.model), len(self.classes))

    def files(self) -> Iterator[tuple[str, bytes]]:
        """The encoder; beside it the last layer and, in its order, the names of the classes."""
        yield from self.encoder.files(IMAGENET_MEAN, IMAGENET_STD)
        yield HEAD, to_bytes(self.head.state_dict())
        yield CLASSES, json.dumps(self.classes, indent=1, ensure_ascii=False).encode()


def targets(options: Labelled, batch: Batch, device: torch.device) -> Tensor:
    """The samples' shares of classes, float32 [batch, classes]."""
    rows = [options.read(fields) for fields in batch.meta]
    return torch.tensor(dense(rows, len(options.classes)), device=device)


def with_labels(given: Tensor, options: Taught, batch: Batch) -> Tensor:
    """What a teacher gave [batch, classes], mixed with the samples' own labels where asked for."""
    share = options.label_share
    return (1 - share) * given + share * targets(options, batch, given.device) if share else given


def build_classifier(settings: TrainSettings, **training: Any) -> TimmEncoder:
    """The network of an objective with classes; raises SluiceError where none are given."""
    if isinstance(settings.options, Labelled) and not settings.options.classes:
        raise SluiceError(
            f"{settings.objective} is to tell classes apart, and options.classes names none",
            f"list the values of the field {settings.options.label!r} there",
        )
    return build_encoder(settings, **training)
