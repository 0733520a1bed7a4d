"""CLIP with a teacher: a small model learns the similarities that a finished one finds in each
batch, beside CLIP's own contrast (Yang et al. 2023, "CLIP-KD", arXiv:2307.12732).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from indexes.encoder import CONFIG, WEIGHTS, ClipEncoder
from infra.errors import SluiceError
from pretrain import views
from pretrain.backbones import ClipParts, build_clip
from pretrain.data import Batch
from pretrain.frozen import Frozen
from pretrain.objectives.base import exact
from pretrain.objectives.clip import Clip, Similarities, similarities
from pretrain.options.clip_distill import ClipDistillOptions
from pretrain.settings import TrainSettings
from pretrain.texts import unit_text


def distill_loss(student: Similarities, teacher: Similarities) -> Tensor:
    """Cross-entropy of the teacher's softmax over each row and the student's, of images to texts
    and of texts to images, averaged; both at their own temperature.
    """
    images = functional.cross_entropy(student.images, teacher.images.softmax(1))
    return (images + functional.cross_entropy(student.texts, teacher.texts.softmax(1))) / 2


class ClipDistill(Clip):
    """A CLIP and a teacher that stays as it is; they share the views, each at its own size.

    The teacher reads whole captions, by its own tokenizer, whatever tokens the student misses.
    """

    full_size = frozenset({"teacher_images"})

    def __init__(self, settings: TrainSettings, parts: ClipParts, teacher: ClipEncoder) -> None:
        super().__init__(settings, parts)
        assert isinstance(settings.options, ClipDistillOptions)
        self.weight = settings.options.distill
        self.teacher = Frozen(teacher.model)
        self._shows, self._reads = teacher.preprocess, teacher.tokenizer

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        images = self.shown(batch, device, self._shows.size[0])
        tokens = self._reads(self.captions(batch))
        return {
            **super().views(batch, device),
            "teacher_images": views.normalize(images, self._shows.mean, self._shows.std),
            "teacher_tokens": self.fitted(tokens, self.teacher.network).to(device),
        }

    def compare(
        self, features: tuple[Tensor, ...], views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        network: Any = self.teacher.network
        image, text = self._taught(views)
        with exact(image.device):
            found = self.similar(self.nested(features))
            contrast, figures = self.contrastive(views, found)
            with torch.no_grad():
                scale = network.logit_scale.exp()
                teacher = similarities(image, text, scale, self.options.negatives)
            distill = torch.stack([distill_loss(each, teacher) for each in found]).mean()
        own = {"contrast": contrast.detach(), "distill": distill.detach()}
        return contrast + self.weight * distill, {**figures, **own}

    @torch.no_grad()
    def _taught(self, views: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The teacher's unit vectors of images and of texts, `micro_batch` samples at a time."""
        network: Any = self.teacher.network
        images, tokens = views["teacher_images"], views["teacher_tokens"]
        size = self.settings.micro_batch or len(images)
        seen = [network.encode_image(rows, normalize=True) for rows in images.split(size)]
        read = [unit_text(network, rows) for rows in tokens.split(size)]
        return torch.cat(seen).float(), torch.cat(read).float()


def load_teacher(options: ClipDistillOptions) -> ClipEncoder:
    """The teacher on the CPU; SluiceError where there is none, or it is no such model."""
    if options.teacher is None:
        raise SluiceError(
            "clip_distill has no teacher to learn from",
            "set options.teacher to a CLIP run's folder, or use the objective clip",
        )
    path = Path(options.teacher)
    if options.teacher_model is not None:
        teacher = ClipEncoder.load(options.teacher_model, options.teacher)
    elif path.is_file():
        if path.name != WEIGHTS or not path.with_name(CONFIG).is_file():
            raise SluiceError(
                f"the teacher {path} is a weight file, and nothing says of which model",
                f"set options.teacher_model to its open_clip name, or put its {CONFIG} beside it "
                f"and name it {WEIGHTS}",
            )
        teacher = ClipEncoder.load(str(path.parent))
    else:
        teacher = ClipEncoder.load(options.teacher)
    if teacher.preprocess.size[0] != teacher.preprocess.size[1]:
        raise SluiceError(
            f"the teacher {options.teacher} takes images of {teacher.preprocess.size} pixels",
            "use one that takes squares, as all training here does",
        )
    return teacher


def build(settings: TrainSettings) -> ClipDistill:
    assert isinstance(settings.options, ClipDistillOptions)
    teacher = load_teacher(settings.options)  # before the weights are drawn from the run's seed
    return ClipDistill(settings, build_clip(settings), teacher)
