"""Networks by name: open_clip models for CLIP, timm models for everything that sees images only.

Written so that others read them: a CLIP run is an open_clip `local-dir:` folder, an image
encoder is `model.safetensors` with timm's parameter names and a `config.json` to rebuild it.
"""

import json
import logging
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.layers import resample_abs_pos_embed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from indexes import outside
from indexes.encoder import CONFIG as CLIP_CONFIG
from indexes.encoder import WEIGHTS as CLIP_WEIGHTS
from indexes.encoder import folder_files
from infra.digests import generator
from infra.errors import SluiceError
from pretrain.declare import Pooling
from pretrain.settings import TrainSettings
from pretrain.sharing import current

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def seed_weights(settings: TrainSettings) -> None:
    """Make the next random weights a function of the run's seed."""
    torch.manual_seed(int(generator(settings.seed, "weights").integers(2**62)))


class ImageSizeError(SluiceError):
    """A network that takes no image of the size that is asked for; of another size it may."""


@dataclass(frozen=True)
class ClipParts:
    """An open_clip model and what belongs to it."""

    model: Any
    tokenizer: Any
    config: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int


def build_clip(settings: TrainSettings, **stated: Any) -> ClipParts:
    """The open_clip model of `settings`; raises SluiceError where it cannot be built.

    stated: entries of its configuration that the objective decides, as init_logit_bias.
    """
    if isinstance(settings.model, str):
        config = open_clip.get_model_config(settings.model)
        if config is None:
            raise SluiceError(
                f"open_clip knows no model {settings.model!r}",
                "use a name that open_clip.list_models() gives, or write its configuration out",
            )
    else:
        config = json.loads(json.dumps(settings.model))
    if not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        raise SluiceError(
            f"the CLIP model configuration has keys {sorted(config)}",
            "it needs embed_dim, vision_cfg and text_cfg, as open_clip's own have",
        )
    if (tower := config["vision_cfg"].get("timm_model_name")) is not None:
        outside.check(tower)
    config["vision_cfg"]["image_size"] = settings.image_size
    config |= stated
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    seed_weights(settings)
    before = logging.root.manager.disable
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, CLIP_CONFIG).write_text(json.dumps({"model_cfg": config}))
        logging.disable(logging.WARNING)  # open_clip warns of the random weights we ask for
        try:
            model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
            name = settings.model if "hf_tokenizer_name" in config["text_cfg"] else None
            tokenizer = open_clip.get_tokenizer(str(name) if name else f"local-dir:{folder}")
        except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
            raise SluiceError(
                f"open_clip cannot build this model: {error}", "mend the model configuration"
            ) from error
        finally:
            logging.disable(before)
    _check_patch(getattr(model.visual, "patch_size", None), settings)
    if (shared := current()) is not None:
        shared.place(model)
    tower = config["vision_cfg"].get("timm_model_name", "the image tower")
    _check_sizes(model.encode_image, model, tower, [settings.image_size])
    if settings.pretrained:
        _load_clip(model, settings)
    return ClipParts(model, tokenizer, config, mean, std, settings.image_size)


def _check_patch(patch: Any, settings: TrainSettings, size: int | None = None) -> None:
    side = patch[0] if isinstance(patch, tuple) else patch
    size = size or settings.image_size
    if isinstance(side, int) and size % side:
        raise ImageSizeError(
            f"an image of {size} pixels is not divisible by the patch size {side} of "
            f"{settings.model}",
            f"use {max(size // side, 1) * side} pixels",
        )


def weight_file(pretrained: str, name: str) -> Path | None:
    """The local weight file that `pretrained` stands for; None where it is no local path."""
    path = Path(pretrained)
    if path.is_dir():
        path = path / name
    return path if path.is_file() else None


def _load_clip(model: Any, settings: TrainSettings) -> None:
    """Load a tag or a file; the model must take every weight, sizes included."""
    assert settings.pretrained
    path = weight_file(settings.pretrained, CLIP_WEIGHTS)
    try:
        if path is None:
            source = open_clip.get_pretrained_cfg(str(settings.model), settings.pretrained)
            if not source:
                raise SluiceError(
                    f"{settings.pretrained!r} is no file, no run's folder and no open_clip tag of "
                    f"{settings.model!r}",
                    "give a path that exists, or a tag that open_clip.list_pretrained() names",
                )
            path = Path(open_clip.download_pretrained(source))
        open_clip.load_checkpoint(model, str(path))
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        raise SluiceError(
            f"weights {settings.pretrained} do not fit the model or cannot be read: {error}",
            "give weights of this very model, or leave `pretrained` out",
        ) from error


def clip_files(parts: ClipParts) -> Iterator[tuple[str, bytes]]:
    """An open_clip `local-dir:` folder: weights, configuration, tokenizer where it has files."""
    preprocess = {
        "size": parts.image_size,
        "mode": "RGB",
        "mean": list(parts.mean),
        "std": list(parts.std),
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    yield from folder_files(parts.model.state_dict(), parts.config, preprocess).items()
    inner: Any = getattr(parts.tokenizer, "tokenizer", None)
    if hasattr(inner, "save_pretrained"):
        with tempfile.TemporaryDirectory() as folder:
            inner.save_pretrained(folder)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    yield str(path.relative_to(folder)), path.read_bytes()


@dataclass(frozen=True)
class TimmEncoder:
    """A timm model without classifier, and how to build it again.

    pooling: which vector stands for an image, where it is not the objective's declared one.
    fresh: its weights are random, and its objective may draw them in its own way.
    """

    model: Any
    width: int
    objective: str
    name: str
    kwargs: dict[str, Any]
    image_size: int
    pooling: Pooling | None = None
    fresh: bool = True

    def files(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Iterator[tuple[str, bytes]]:
        """config.json and model.safetensors, with timm's own parameter names."""
        config = {
            "objective": self.objective,
            "timm_name": self.name,
            "timm_kwargs": self.kwargs,
            "image_size": self.image_size,
            "mean": list(mean),
            "std": list(std),
            "interpolation": "bicubic",
            "resize_mode": "squash",
            "width": self.width,
            **({"pooling": self.pooling} if self.pooling else {}),
        }
        yield CONFIG, json.dumps(config, indent=1, sort_keys=True).encode()
        yield WEIGHTS, to_bytes(self.model.state_dict())


def build_encoder(
    settings: TrainSettings, other_sizes: Sequence[int] = (), **training: Any
) -> TimmEncoder:
    """The timm model of `settings`, the same weights at every call.

    other_sizes: further image sizes it must take. training: arguments that only training needs
    (drop path), not written to its configuration; dropped for models that do not know them.
    Within `sharing.sharing`, the encoder that is shared, and then copies of it.
    """
    shared = current()
    if shared is not None and not shared.taken:
        encoder = replace(shared.take(), objective=settings.objective, fresh=False)
        seed_weights(settings)  # of what its objective adds to it
    else:
        encoder = _new_encoder(settings, other_sizes, training)
        if shared is not None:
            shared.follow(encoder.model, given=bool(settings.pretrained))
    if settings.declared.needs.drops_patches:
        _check_dropping(encoder.model, settings.objective)
    embed, sizes = getattr(encoder.model, "patch_embed", None), [settings.image_size, *other_sizes]
    overlaps = getattr(getattr(embed, "proj", None), "stride", None) != getattr(
        embed, "patch_size", None
    )
    for size in [] if overlaps else sizes:
        _check_patch(getattr(embed, "patch_size", None), settings, size)
    _check_sizes(encoder.model.forward_features, encoder.model, encoder.name, sizes)
    return encoder


def _new_encoder(
    settings: TrainSettings, other_sizes: Sequence[int], training: dict[str, Any]
) -> TimmEncoder:
    name = str(settings.model)
    outside.check(name)
    several = any(other_sizes) or settings.curriculum is not None
    flexible = {"dynamic_img_size": True} if several else {}
    fixed = {"num_classes": 0, **settings.model_kwargs}
    sized = {**fixed, "img_size": settings.image_size}
    failure: Exception | None = None
    model: Any = None
    for kwargs in ({**sized, **flexible}, sized, fixed):
        try:
            seed_weights(settings)
            model = timm.create_model(name, pretrained=False, **kwargs, **training)
            break
        except (TypeError, IndexError) as error:  # it knows no img_size, or not as one number
            failure = error
        except (ValueError, RuntimeError, AssertionError) as error:
            failure = error
            break
    if model is None:
        raise SluiceError(
            f"timm cannot build {name} with {settings.model_kwargs}: {failure}",
            "mend model, model_kwargs or image_size",
        ) from failure
    encoder = TimmEncoder(
        model,
        int(model.num_features),
        settings.objective,
        name,
        kwargs,
        settings.image_size,
        fresh=not settings.pretrained,
    )
    if settings.pretrained:
        _load_encoder(encoder, settings)
    return encoder


@torch.no_grad()
def _check_sizes(encode: Any, model: nn.Module, name: str, sizes: Sequence[int]) -> None:
    """Let a network see one black image of each size: few say beforehand which they take."""
    before = model.training
    model.eval()
    for size in dict.fromkeys(sizes):
        try:
            encode(torch.zeros(1, 3, size, size))
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            also = f" beside {sizes[0]}" if size != sizes[0] else ""
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise ImageSizeError(
                f"{name} takes no image of {size} pixels{also}: {why}",
                "choose another image_size or another model; for an objective with small crops a "
                "model of any size (a ConvNet, vit_*), or options.local_crops: 0",
            ) from error
    model.train(before)


def _check_dropping(model: nn.Module, objective: str) -> None:
    if not isinstance(model, VisionTransformer) or model.pos_embed is None:
        raise SluiceError(
            f"{objective} cannot train a {type(model).__name__}: it must be able to drop patches",
            "use a vision transformer of timm with absolute positions: vit_tiny_patch16_224, ...",
        )
    if model.num_reg_tokens or (model.no_embed_class and model.cls_token is not None):
        raise SluiceError(
            f"{objective} trains no transformer with register tokens or without a place for the "
            "class token",
            "leave reg_tokens and no_embed_class out of model_kwargs",
        )


def run_blocks(model: Any, tokens: Tensor) -> Tensor:
    """Tokens [batch, n, width] through a transformer's blocks, which its forward would also do.

    For objectives that make the tokens themselves; activations are kept or not as it is set to.
    """
    if model.grad_checkpointing:
        return checkpoint_seq(model.blocks, tokens)
    return model.blocks(tokens)


def checkpoint_blocks(networks: nn.Module) -> None:
    """Let all trained networks within keep no activations inside their blocks.

    Raises SluiceError where none of them can.
    """
    able = list(_checkpointing(networks))
    try:
        for module in able:
            module.set_grad_checkpointing(True)
    except (AssertionError, RuntimeError) as error:  # each family says no in its own way
        able, reason = [], f": {error}"
    else:
        reason = ""
    if not able:
        raise SluiceError(
            f"grad_checkpointing is set, and this network cannot do it{reason}",
            "leave grad_checkpointing out, or use another model",
        )


def _checkpointing(module: Any) -> Iterator[Any]:
    """The outermost modules that are trained and have the switch."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return
    if callable(getattr(module, "set_grad_checkpointing", None)):
        yield module
        return
    for child in module.children():
        yield from _checkpointing(child)


def _load_encoder(encoder: TimmEncoder, settings: TrainSettings) -> None:
    assert settings.pretrained
    path = weight_file(settings.pretrained, WEIGHTS)
    try:
        if path is None:
            raise FileNotFoundError("there is no such file, and no such folder of a run")
        encoder.model.load_state_dict(_fitting(load_file(path), encoder.model), strict=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise SluiceError(
            f"weights {settings.pretrained} do not fit {encoder.name} or cannot be read: {error}",
            "give weights of this very model, or leave `pretrained` out",
        ) from error


def _fitting(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Weights without a classifier, positions of another image size resampled to the model's."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    named = config.get("classifier") or ()
    heads = tuple(f"{name}." for name in ((named,) if isinstance(named, str) else named))
    own = model.state_dict()
    state = {k: value for k, value in state.items() if k in own or not k.startswith(heads)}
    places = state.get("pos_embed")
    if not isinstance(model, VisionTransformer) or places is None or model.pos_embed is None:
        return state
    if places.shape != model.pos_embed.shape and places.shape[-1] == model.embed_dim:
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        grid = list(model.patch_embed.grid_size)
        state["pos_embed"] = resample_abs_pos_embed(places, grid, num_prefix_tokens=prefix)
    return state


def to_bytes(state: dict[str, Tensor]) -> bytes:
    """A state as safetensors; the same tensors give the same bytes."""
    return save({name: state[name].detach().cpu().contiguous() for name in sorted(state)})
