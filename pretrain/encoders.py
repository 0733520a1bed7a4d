"""Encoders for evaluation: a trained run, the same network untrained, or raw pixels.

    load("<run url>")          the encoder that a run of `pretrain` left
    load("random:<run url>")   its architecture with fresh random weights
    load("pixels")             no network: small images as vectors

Which vector stands for an image: of an open_clip run its image embedding; of a timm network the
class token or the mean of the patch tokens, as its objective declares (`pooling`) unless the run's
own configuration says.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from indexes import outside
from indexes.encoder import CONFIG as CLIP_CONFIG
from indexes.encoder import ClipEncoder
from indexes.preprocess import Preprocess
from infra import artifacts, filesystem
from infra.digests import generator
from infra.errors import SluiceError
from infra.filesystem import join
from pretrain import options
from pretrain.declare import Pooling

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FIELDS = {"objective", "timm_name", "timm_kwargs", "image_size", "mean", "std"}
RANDOM, PIXELS = "random:", "pixels"
CHUNK = 32  # images of a forward pass, always, so that a vector depends on its image alone

Images = Sequence[NDArray[np.uint8]]


class Encoder(Protocol):
    """Images to vectors."""

    @property
    def seed(self) -> int | None:
        """Of its training, or of its random weights."""
        ...

    def encode_images(self, images: Images) -> NDArray[np.float32]:
        """uint8 RGB arrays [height, width, 3] of any sizes -> float32 [n, dimension]."""
        ...


@dataclass(frozen=True)
class PixelEncoder:
    """Every image squeezed to side x side, values centred on grey: [n, side * side * 3]."""

    side: int
    seed: int | None = None

    def encode_images(self, images: Images) -> NDArray[np.float32]:
        half = (0.5, 0.5, 0.5)
        preprocess = Preprocess((self.side, self.side), half, half, resize_mode="squash")
        if not images:
            return np.empty((0, 3 * self.side**2), np.float32)
        return preprocess(images).flatten(1).numpy()


@dataclass(frozen=True)
class TextImageEncoder:
    """A CLIP run: images and texts in one space."""

    clip: ClipEncoder
    seed: int | None = None

    def encode_images(self, images: Images) -> NDArray[np.float32]:
        return self.clip.encode_images(images).astype(np.float32)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts -> float32 [n, dimension], of unit length."""
        return self.clip.encode_texts(texts).astype(np.float32)


@dataclass(frozen=True)
class ImageEncoder:
    """A timm network without classifier; `pooling` says which tokens are taken."""

    model: Any
    preprocess: Preprocess
    pooling: Pooling
    seed: int | None = None
    device: str = "cpu"

    def encode_images(self, images: Images) -> NDArray[np.float32]:
        outputs = [np.empty((0, int(self.model.num_features)), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(images), CHUNK):
                pixels = self.preprocess(images[start : start + CHUNK]).to(self.device)
                count = len(pixels)
                padding = pixels[-1:].expand(CHUNK - count, *pixels.shape[1:])
                vectors = self.pool(self.model.forward_features(torch.cat([pixels, padding])))
                outputs.append(vectors[:count].float().cpu().numpy())
        return np.concatenate(outputs)

    def pool(self, tokens: Tensor | Any) -> Tensor:
        """Network output -> [n, dimension]; a network without tokens pools in its own way."""
        prefix = int(getattr(self.model, "num_prefix_tokens", 0))
        if not isinstance(tokens, Tensor) or tokens.ndim != 3:  # CrossViT has two lots of them
            return self.model.forward_head(tokens, pre_logits=True)
        if self.pooling == "patch_mean" or prefix == 0:
            return tokens[:, prefix:].mean(1)
        return tokens[:, 0]


def load(source: str, *, seed: int = 0, pixels: int = 16, device: str = "cpu") -> Encoder:
    """The encoder that `source` names (see the module's head).

    seed: of the random weights. pixels: side of the raw-pixel baseline. device: as PyTorch names
    it; another rounds differently.
    Raises SluiceError for a run that is not there or whose weights do not fit its model.
    """
    if source == PIXELS:
        return PixelEncoder(pixels)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        return _load(source, seed, device)


def _load(source: str, seed: int, device: str) -> Encoder:
    random = source.startswith(RANDOM)
    url = source.removeprefix(RANDOM)
    if filesystem.exists(join(url, CLIP_CONFIG)):
        clip = ClipEncoder.load(url, device=device)
        if random:
            return TextImageEncoder(_untrained_clip(clip, seed), seed)
        return TextImageEncoder(clip, _run_seed(url))
    if not filesystem.exists(join(url, CONFIG)):
        raise SluiceError(
            f"no encoder at {url}: it holds neither {CLIP_CONFIG} nor {CONFIG}",
            "name the folder of a finished run of `pretrain`",
        )
    config = _read_config(join(url, CONFIG))
    model = _build(config, join(url, CONFIG), seed)
    if not random:
        _load_weights(model, join(url, WEIGHTS))
    model.eval().requires_grad_(False).to(device)
    size = int(config["image_size"])
    preprocess = Preprocess(
        (size, size),
        tuple(config["mean"]),
        tuple(config["std"]),
        resize_mode=config.get("resize_mode", "squash"),
    )
    return ImageEncoder(
        model, preprocess, _pooling(config, url), seed if random else _run_seed(url), device
    )


def _read_config(url: str) -> Mapping[str, Any]:
    try:
        config = json.loads(filesystem.read_bytes(url))
        missing = FIELDS - set(config)
    except (ValueError, TypeError) as error:
        raise SluiceError(f"{url} is not JSON: {error}", "train this run again") from error
    if missing:
        raise SluiceError(f"{url} lacks {', '.join(sorted(missing))}", "train this run again")
    return config


def _pooling(config: Mapping[str, Any], url: str) -> Pooling:
    """What the run's configuration says, else what its objective declares."""
    stated = config.get("pooling")
    try:
        pooling = options.declared(config["objective"]).pooling if stated is None else stated
    except ValueError as error:
        raise SluiceError(
            f"{join(url, CONFIG)}: {error}",
            "load it with the Sluice that trained it, or add `pooling` to that file",
        ) from error
    if pooling not in get_args(Pooling):
        raise SluiceError(
            f"{join(url, CONFIG)} has pooling {pooling!r}",
            f"use one of {', '.join(get_args(Pooling))}",
        )
    return pooling


def _fresh(seed: int) -> int:
    """The seed PyTorch gets for the weights of seed `seed`."""
    return int(generator(seed, "random encoder").integers(2**62))


def _build(config: Mapping[str, Any], url: str, seed: int) -> Any:
    import timm

    try:
        outside.is_model(config["timm_name"])
        torch.manual_seed(_fresh(seed))
        kwargs = {"num_classes": 0, **config["timm_kwargs"]}
        return timm.create_model(config["timm_name"], pretrained=False, **kwargs)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise SluiceError(
            f"{url} names a network that cannot be built: {error}",
            "train this run again with the timm that is installed",
        ) from error


def _load_weights(model: nn.Module, url: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    try:
        model.load_state_dict(parse(filesystem.read_bytes(url)), strict=True)
    except (RuntimeError, SafetensorError, FileNotFoundError) as error:
        lines = " ".join(line.strip() for line in str(error).splitlines()[:3])
        raise SluiceError(
            f"the weights {url} do not fit their model: {lines}",
            f"put back the {CONFIG} that they were written with, or train this run again",
        ) from error
    broken = [name for name, value in model.state_dict().items() if not _finite(value)]
    if broken:
        raise SluiceError(
            f"the weights {url} hold values that are not numbers, first in {broken[0]}",
            "its training diverged: lower its learning rate and train it again",
        )


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _untrained_clip(clip: ClipEncoder, seed: int) -> ClipEncoder:
    """The same architecture, tokenizer and preprocessing with random weights."""
    config = json.loads(json.dumps(dict(clip.config["model_cfg"])))
    config.pop("custom_text", None)  # says which class to take, and that is known
    for tower, flag in (
        ("vision_cfg", "timm_model_pretrained"),
        ("text_cfg", "hf_model_pretrained"),
    ):
        if flag in config[tower]:
            config[tower][flag] = False
    torch.manual_seed(_fresh(seed))
    model = type(clip.model)(**config)
    return replace(clip, model=model.eval().requires_grad_(False).to(clip.device))


def _run_seed(url: str) -> int | None:
    """The seed the run at `url` was trained with, if its manifest says."""
    artifact = artifacts.load(url)
    seed = artifact.settings.get("seed") if artifact else None
    return seed if isinstance(seed, int) else None
