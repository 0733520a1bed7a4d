"""What objectives of images and captions have in common: two towers, views of pairs, embeddings."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from indexes.tokens import Tokens
from infra.errors import SluiceError
from pretrain import views
from pretrain.backbones import ClipParts, clip_files
from pretrain.data import Batch
from pretrain.objectives.base import Objective
from pretrain.pair_options import ORIGINAL, NestedOptions, PairOptions
from pretrain.settings import TrainSettings
from pretrain.texts import encode_text, reads_on, shortened, unit_text


class Pairs(Objective):
    """An open_clip model that sees images and reads captions.

    widths: of the embeddings that are trained, the whole one last; empty: the whole one alone.
    """

    def __init__(self, settings: TrainSettings, parts: ClipParts) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, PairOptions)
        self._shown = settings.options
        self._mix = settings.options.mix()
        self.model = parts.model
        self.parts = parts
        self.tokenize = Tokens(parts.tokenizer)
        self.widths = _widths(settings.options, int(parts.config["embed_dim"]))

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        images = self.shown(batch, device, self.settings.image_size)
        tokens = self.tokenize(self.captions(batch))
        if self._shown.drop_tokens:
            drawn = views.uniforms(self.key("token"), batch.places, tokens.shape[1])
            tokens = views.drop_tokens(tokens, drawn, self._shown.drop_tokens)
        found: dict[str, Any] = {
            "images": views.normalize(images, self.parts.mean, self.parts.std),
            "tokens": self.fitted(tokens, self.parts.model).to(device),
        }
        if self._mix:
            kinds = [[*self._mix].index(kind) for _, kind in self._read(batch)]
            found["read"] = torch.tensor(kinds).to(device)
        return found

    def captions(self, batch: Batch) -> list[str]:
        """The caption of the kind that a sample's place draws, by `options.captions`.

        Its own where it has none of that kind.
        """
        return [text for text, _ in self._read(batch)] if self._mix else batch.captions

    def _read(self, batch: Batch) -> list[tuple[str, str]]:
        """The caption that is read of each sample, and its kind."""
        names, bounds = list(self._mix), np.cumsum(list(self._mix.values()))
        numbers = views.uniforms(self.key("caption"), batch.places, 1)[:, 0] * bounds[-1]
        drawn = np.searchsorted(bounds[:-1], numbers, side="right")
        read: list[tuple[str, str]] = []
        for row, own in enumerate(batch.captions):
            kind = names[drawn[row]]
            columns = batch.columns[row] if batch.columns else {}
            text = columns.get(kind, {}).get("caption")
            read.append((text, kind) if text else (own, ORIGINAL))
        return read

    def told(self, views: Mapping[str, Any]) -> dict[str, Tensor]:
        """Figures: of each kind of caption in the mix the share of those that were read."""
        return {
            f"read_{kind}": (views["read"] == number).float().mean()
            for number, kind in enumerate(self._mix)
        }

    def fitted(self, tokens: Tensor, model: nn.Module) -> Tensor:
        """Ids [batch, context] as `model` is to read them: without needless padding."""
        whole = self.largest or self.settings.compile  # compiled code is for one shape
        return tokens if whole or not reads_on(model) else shortened(tokens)

    def shown(self, batch: Batch, device: torch.device, size: int) -> Tensor:
        """Random views [batch, 3, size, size] in 0..1; the same ones at every size."""
        options = self._shown
        numbers = views.uniforms(self.key("view"), batch.places, 12)
        boxes = views.crop_boxes(numbers[:, :4], batch.sizes, options.crop_scale)
        pixels = torch.from_numpy(batch.images).to(device)
        mirrored = numbers[:, 4] < options.flip if options.flip else None
        images = views.crop(pixels, boxes, size, mirrored)
        if options.jitter:
            images = views.colour(images, numbers[:, 5:10], options.jitter * batch.strength, 0.8)
        if options.grey:
            images = views.grey(images, numbers[:, 10] < options.grey)
        if options.invert:
            images = views.solarize(images, numbers[:, 11] < options.invert, threshold=0.0)
        return images

    def features(self, views: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Of images and of texts, float32 [batch, embedding]: unit vectors, unless `widths` are
        to be cut of them.
        """
        whole = not self.widths
        image = self.model.encode_image(views["images"], normalize=whole).float()
        text = (unit_text if whole else encode_text)(self.model, views["tokens"])
        return image, text.float()

    def embed(self, views: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """Unit vectors of images and of texts, float32 [batch, width], for each width."""
        return self.nested(self.features(views))

    def nested(self, features: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
        """Unit vectors of each width, out of `features`."""
        image, text = features
        if not self.widths:
            return [(image, text)]
        return [
            (normalize(image[:, :width], dim=1), normalize(text[:, :width], dim=1))
            for width in self.widths
        ]

    def mean(self, losses: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over all widths, and each width's own as a figure where there are several."""
        figures = {
            f"loss_{width}": loss.detach()
            for width, loss in zip(self.widths, losses if self.widths else [], strict=True)
        }
        return torch.stack(losses).mean(), figures

    def files(self) -> Iterator[tuple[str, bytes]]:
        return clip_files(self.parts)


def _widths(options: PairOptions, whole: int) -> tuple[int, ...]:
    """Each prefix once and the whole embedding, ascending; empty where no prefix is asked for."""
    if not isinstance(options, NestedOptions) or not options.prefixes:
        return ()
    if max(options.prefixes) > whole:
        raise SluiceError(
            f"options.prefixes has {max(options.prefixes)}, but embeddings of this model have "
            f"{whole} values",
            f"give numbers up to {whole}, or a model with a larger embed_dim",
        )
    return tuple(sorted({*options.prefixes, whole}))
