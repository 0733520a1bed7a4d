"""Networks that tell classes: of a finished run, of timm by name, or CLIP by prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from indexes import outside
from indexes.encoder import ClipEncoder
from indexes.hub import hub_reachable, offline_hub, quiet_loading
from infra import filesystem
from infra.errors import SluiceError
from infra.filesystem import join
from pretrain import encoders
from pretrain.backbones import WEIGHTS, weight_file
from pretrain.classifier import CLASSES, HEAD
from pretrain.encoders import ImageEncoder, TextImageEncoder
from pretrain.evaluate.zero_shot import class_vectors
from pretrain.labels import check_same
from pretrain.reinforce import run_classes
from pretrain.reinforce_settings import TIMM, ReinforceSettings, TeacherSettings

SAFE = ".safetensors"


@dataclass(frozen=True)
class LabelTeacher:
    """A network in evaluation mode. Images float32 [n, 3, size, size], normalised by mean and std.

    classes: their names; empty where it tells none. head: from what the model gives to scores of
    the classes; None where the model has its own. pool: what stands for an image, from the model's
    features, where that is not what its classifier sees.
    """

    name: str
    model: Any
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    head: nn.Module | None = None
    pool: Callable[[Tensor], Tensor] | None = None

    def vectors(self, images: Tensor) -> Tensor:
        """[n, width], as they are before the classifier."""
        if self.pool is not None:
            return self.pool(self.model.forward_features(images)).float()
        if self.head is None and self.classes:
            features = self.model.forward_features(images)
            return self.model.forward_head(features, pre_logits=True).float()
        return self.model(images).float()

    def probabilities(self, images: Tensor) -> Tensor:
        """[n, classes], summing to 1."""
        found = self.model(images)
        return (found if self.head is None else self.head(found)).float().softmax(-1)

    def scores(self, images: Tensor) -> Tensor:
        """The classifier at each place of the network's last features: logits [n, h, w, classes].

        Each place goes through the network's own head as if it were an image of one place. Where
        that pools by a mean and ends linearly, the mean over all places is what the whole gives.
        """
        places = _by_place(self.model.forward_features(images), self.model)
        (count, height, width), single = places.shape[:3], places.flatten(0, 2)
        found = self.model.forward_head(self._alone(single), pre_logits=self.head is not None)
        found = found if self.head is None else self.head(found)
        return found.float().view(count, height, width, -1)

    def _alone(self, places: Tensor) -> Tensor:
        """[n, width] as features of one place each, laid out as the network has them."""
        if hasattr(self.model, "num_prefix_tokens"):
            # A head takes the first token, or the mean of those behind the prefix: both are it.
            return places[:, None].expand(-1, int(self.model.num_prefix_tokens) + 1, -1)
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return places[:, None, None]
        return places[:, :, None, None]


def _by_place(features: Any, model: Any) -> Tensor:
    """Features as [n, h, w, width]; SluiceError where they have no places in a grid."""
    if isinstance(features, Tensor) and features.ndim == 4:
        nhwc = getattr(model, "output_fmt", "NCHW") == "NHWC"
        return features if nhwc else features.permute(0, 2, 3, 1)
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    if isinstance(features, Tensor) and features.ndim == 3 and grid:
        tokens = features[:, prefix:]
        if tokens.shape[1] == grid[0] * grid[1]:
            return tokens.unflatten(1, tuple(grid))
    raise SluiceError(
        f"the features of a {type(model).__name__} have no places in a grid",
        "take a ConvNet or a vision transformer as the teacher of a map",
    )


def load(settings: ReinforceSettings, device: torch.device) -> list[LabelTeacher]:
    """All teachers, their classes in the order of the first one's.

    Raises SluiceError where one is not there, tells no classes but is asked for them, or tells
    others than the rest.
    """
    with torch.random.fork_rng(devices=[]):
        made = [_load(each, settings, device) for each in settings.teachers]
    if settings.output == "vectors":
        return made
    for each in made:
        if not each.classes:
            raise SluiceError(
                f"{each.name} has no classifier, and its classes are asked for",
                "take a run that was trained with classes, or output: vectors",
            )
        check_same(made[0].classes, made[0].name, each.classes, each.name)
    return made


def _load(
    teacher: TeacherSettings, settings: ReinforceSettings, device: torch.device
) -> LabelTeacher:
    if teacher.network.startswith(TIMM):
        return _timm(teacher, settings.classes, device)
    name = teacher.network
    loaded = encoders.load(name, device=str(device))
    if isinstance(loaded, TextImageEncoder):
        return _clip(name, loaded.clip, settings)
    if not isinstance(loaded, ImageEncoder):
        raise SluiceError(f"{name} has no network", "name a finished run's folder, or timm:<name>")
    classes, show = run_classes(name), loaded.preprocess
    head = None
    if classes:
        head = _run_head(name, classes).to(device)
        if settings.classes:
            check_same(settings.classes, "`classes`", classes, name)
    pool = None if classes else loaded.pool
    return LabelTeacher(name, loaded.model, show.size[0], show.mean, show.std, classes, head, pool)


def _run_head(url: str, classes: Sequence[str]) -> nn.Linear:
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    try:
        state = parse(filesystem.read_bytes(join(url, HEAD)))
        layer = nn.Linear(state["weight"].shape[1], len(classes))
        layer.load_state_dict(state)
    except (FileNotFoundError, KeyError, IndexError, RuntimeError, SafetensorError) as error:
        raise SluiceError(
            f"{join(url, HEAD)} is not the last layer of {len(classes)} classes: {error}",
            f"put back the {CLASSES} that it was written with, or train this run again",
        ) from error
    return layer.eval().requires_grad_(False)


class _Tower(nn.Module):
    """Images to the unit vectors of a CLIP."""

    def __init__(self, encode: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.encode = encode

    def forward(self, images: Tensor) -> Tensor:
        return functional.normalize(self.encode(images).float(), dim=-1)


def _clip(name: str, clip: ClipEncoder, settings: ReinforceSettings) -> LabelTeacher:
    """Zero-shot: the softmax of its own temperature over the prompts of the classes."""
    show, head = clip.preprocess, None
    if settings.output == "map":
        raise SluiceError(
            f"{name} is a CLIP, whose image vectors have no places",
            "take a ConvNet or a vision transformer with a classifier as the teacher of a map",
        )
    if settings.output == "probabilities":
        if not settings.classes:
            raise SluiceError(
                f"{name} is a CLIP, which tells the classes it is asked for, and `classes` names "
                "none",
                "list the classes there",
            )
        texts = class_vectors(
            lambda each: clip.encode_texts(each).astype("float32"),
            settings.classes,
            settings.templates,
        )
        head = nn.Linear(clip.dimension, len(settings.classes), bias=False)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(texts) * clip.logit_scale)
        head.requires_grad_(False).to(clip.device)
    model: Any = clip.model
    tower = _Tower(model.encode_image)
    return LabelTeacher(name, tower, show.size[0], show.mean, show.std, settings.classes, head)


def _timm(teacher: TeacherSettings, classes: tuple[str, ...], device: torch.device) -> LabelTeacher:

    name = teacher.network.removeprefix(TIMM)
    outside.check(name.partition(".")[0])  # of its weights the tag comes after a dot
    given: dict[str, Any] = dict(teacher.kwargs)
    if teacher.weights is not None:
        path = weight_file(teacher.weights, WEIGHTS)
        if path is None or path.suffix != SAFE:
            raise SluiceError(
                f"there are no weights at {teacher.weights}",
                f"name a file *{SAFE}, or a folder with {WEIGHTS}; other formats can run code",
            )
        given |= {"checkpoint_path": str(path), "num_classes": len(classes) or None}
        given = {key: value for key, value in given.items() if value is not None}
    if teacher.image_size is not None:
        given["img_size"] = teacher.image_size
    model = _built(name, given, teacher.weights is None)
    config = model.pretrained_cfg
    fixed = getattr(getattr(model, "patch_embed", None), "img_size", None)
    size = teacher.image_size or (int(fixed[0]) if fixed else int(config["input_size"][-1]))
    told = classes or tuple(map(str, range(int(model.num_classes))))
    if len(told) != model.num_classes:
        raise SluiceError(
            f"`classes` names {len(told)}, and {teacher.network} tells {model.num_classes} apart",
            "list as many, in the order of its outputs",
        )
    model.eval().requires_grad_(False).to(device)
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return LabelTeacher(teacher.network, model, size, mean, std, told)


def _built(name: str, given: dict[str, Any], pretrained: bool) -> Any:
    """The network; one that takes any size of images is not told which."""
    import timm

    failure: Exception | None = None
    for kwargs in (given, {key: value for key, value in given.items() if key != "img_size"}):
        try:
            offline = pretrained and not hub_reachable()
            with quiet_loading():
                if not offline:
                    return timm.create_model(name, pretrained=pretrained, **kwargs)
                with offline_hub():
                    return timm.create_model(name, pretrained=pretrained, **kwargs)
        except TypeError as error:
            failure = error
        except Exception as error:  # a hub's client and a damaged file raise errors of their own
            failure = error
            break
    raise SluiceError(
        f"timm cannot give the teacher {name}: {failure}",
        "give the weights of this very model as a file, a connection to the hub, or a finished "
        "run's folder",
    ) from failure


def scored(teachers: Sequence[LabelTeacher], ask: Callable[[LabelTeacher], Tensor]) -> Tensor:
    """The mean of what each teacher answers; SluiceError where that is no number."""
    answers = [ask(each) for each in teachers]
    if len({each.shape for each in answers}) > 1:
        shapes = ", ".join(str(tuple(each.shape[1:])) for each in answers)
        raise SluiceError(
            f"the teachers answer in different shapes: {shapes}",
            "give them image sizes at which their maps have as many places",
        )
    total = torch.stack(answers).mean(0) if len(answers) > 1 else answers[0]
    if not bool(torch.isfinite(total).all()):
        raise SluiceError(
            f"{', '.join(each.name for each in teachers)} gives values that are not numbers",
            "its weights are damaged or its training diverged: name another teacher",
        )
    return total
