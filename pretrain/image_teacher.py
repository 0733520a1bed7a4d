"""An encoder that teaches by its features: a finished run's, or a timm model with its weights."""

from typing import Any

import timm
import torch
from torch import Tensor, nn

from indexes import outside
from infra.errors import SluiceError
from pretrain import encoders
from pretrain.encoders import ImageEncoder, TextImageEncoder
from pretrain.frozen import Frozen

TIMM = "timm:"


class ImageTeacher(nn.Module):
    """Images [batch, 3, size, size] to vectors [batch, width]; never trained.

    size, mean, std: of the images it takes. source: the loaded run, None for a timm model.
    """

    def __init__(
        self,
        model: nn.Module,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        source: ImageEncoder | TextImageEncoder | None = None,
    ) -> None:
        super().__init__()
        self.held = Frozen(model)
        self.size, self.mean, self.std = size, mean, std
        self.source = source
        self.width = int(self(torch.zeros(1, 3, size, size)).shape[1])

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        network = self.held.network
        if isinstance(self.source, TextImageEncoder):
            return network.encode_image(images)
        if self.source is not None:
            return self.source.pool(network.forward_features(images))
        return network(images)


def image_teacher(named: str, kwargs: dict[str, Any], size: int) -> ImageTeacher:
    """The network that `named` names: timm:<name>, or a run as `encoders.load` takes it.

    kwargs: of timm.create_model; size: of its images, where the network takes any. The caller's
    random numbers stay as they were. Raises SluiceError where it cannot be had.
    """
    if named.startswith(TIMM):
        with torch.random.fork_rng(devices=[]):
            return _timm(named.removeprefix(TIMM), kwargs, size)
    loaded = encoders.load(named)
    if isinstance(loaded, TextImageEncoder):
        model, preprocess = loaded.clip.model, loaded.clip.preprocess
    elif isinstance(loaded, ImageEncoder):
        model, preprocess = loaded.model, loaded.preprocess
    else:
        raise SluiceError(
            f"{named} has no network to learn from",
            "name a finished run's folder, or timm:<name>",
        )
    return ImageTeacher(model, preprocess.size[0], preprocess.mean, preprocess.std, loaded)


def _timm(name: str, kwargs: dict[str, Any], size: int) -> ImageTeacher:
    given: dict[str, Any] = {"num_classes": 0, **kwargs}
    outside.is_model(name.partition(".")[0])  # of its weights the tag comes after a dot
    try:
        model: Any = timm.create_model(name, pretrained=True, **given)
    except Exception as error:  # a hub's client raises errors of its own
        raise SluiceError(
            f"timm cannot give the teacher {name} with {kwargs}: {error}",
            "use a name timm.list_models(pretrained=True) gives, with a connection to its weights "
            "or these in its cache; or a finished run's folder",
        ) from error
    config = model.pretrained_cfg
    fixed = getattr(getattr(model, "patch_embed", None), "img_size", None)
    sides = int(fixed[0]) if fixed else size
    return ImageTeacher(model, sides, tuple(config["mean"]), tuple(config["std"]))
