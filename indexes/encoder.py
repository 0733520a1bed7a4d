"""Images and texts to unit vectors, by any open_clip model.

A model is named as open_clip names it: an architecture with a pretrained tag or a checkpoint
file ("ViT-B-32" with "laion2b_s34b_b79k"), a hub repository ("hf-hub:..."), or a folder in
open_clip's own format, which is also what a CLIP run of `pretrain` leaves:

    open_clip_config.json           {"model_cfg": {...}, "preprocess_cfg": {...}}
    open_clip_model.safetensors     the model's state dict

Only a name that is on a hub ever opens a connection. Weights are read as safetensors or with
`weights_only`: a checkpoint cannot run code.
"""

import contextlib
import importlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from indexes import bfloat16
from indexes.hub import hub_reachable, offline_hub, quiet_loading
from indexes.preprocess import Preprocess
from indexes.tokens import Tokens
from infra import filesystem
from infra.digests import canonical_json
from infra.errors import SluiceError
from infra.filesystem import join

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
CHUNK = 32  # samples a forward pass takes on a CPU, always: see `ClipEncoder`
GPU_CHUNK = 512  # samples it takes on a GPU, or as many as there is memory for
AUTO = "auto"  # the GPU where there is one, else the CPU

Precision = Literal["float32", "bfloat16"]

Vectors = npt.NDArray[np.float16]


def folder_files(
    state: Mapping[str, torch.Tensor],
    model_cfg: Mapping[str, Any],
    preprocess_cfg: Mapping[str, Any],
) -> dict[str, bytes]:
    """The files of a model folder by name; equal weights give equal bytes.

    state: the model's `state_dict()`. model_cfg: embed_dim, vision_cfg, text_cfg, ... as in
    open_clip's model_configs. preprocess_cfg: size, mean, std, interpolation, resize_mode.
    """
    from safetensors.torch import save

    config = {"model_cfg": dict(model_cfg), "preprocess_cfg": dict(preprocess_cfg)}
    tensors = {name: state[name].detach().cpu().contiguous().clone() for name in sorted(state)}
    return {
        CONFIG: json.dumps(config, indent=1, sort_keys=True).encode(),
        WEIGHTS: save(tensors),
    }


@dataclass(eq=False)
class ClipEncoder:
    """A loaded open_clip model with its tokenizer and preprocessing.

    A vector depends on its own image or text alone, not on the batch it came in: samples pass
    through the network in chunks of `CHUNK`, the last one padded, because matrix products of
    another shape may add in another order. A single sample passes alone, which is what a query
    wants; it may differ from the same sample in a batch in the last bit of float16. Another
    device or number of threads may do so too: workers run with one thread on the CPU.

    precision: bfloat16 has 8 bits for a number's digits, and moves similarities in their third
    decimal; it is faster on GPUs, and on CPUs that have its instructions. On others it is slower.
    """

    model: torch.nn.Module
    tokenizer: Tokens
    preprocess: Preprocess
    config: Mapping[str, Any]  # model_cfg and preprocess_cfg
    device: torch.device
    precision: Precision = "float32"
    chunk: int = CHUNK  # samples of a forward pass; halved where a GPU's memory does not hold them

    @staticmethod
    def load(
        model: str,
        pretrained: str | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
    ) -> "ClipEncoder":
        """Load a model by open_clip name or folder.

        model: a folder (any fsspec URL), an architecture's name, or "hf-hub:owner/name".
        pretrained: for an architecture, open_clip's tag or the path of a checkpoint file.
        device: as PyTorch names it, or "auto".
        Raises SluiceError where it is not there, cannot be reached, or does not fit.
        """
        if device == AUTO:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        encoder = ClipEncoder._loaded(model, pretrained, device)
        encoder.precision = precision
        if encoder.device.type == "cuda":
            encoder.chunk = GPU_CHUNK
        return encoder

    @staticmethod
    def _loaded(model: str, pretrained: str | None, device: str) -> "ClipEncoder":
        with quiet_loading(), contextlib.ExitStack() as stack:
            folder = _folder(model, stack)
            if folder is not None:
                _check_folder(folder)
                return _load(f"local-dir:{folder}", None, device, model, offline=True)
            if model.startswith("hf-hub:"):
                return _load(model, None, device, model, offline=not hub_reachable())
            offline = _check_name(model, pretrained) or not hub_reachable()
            named = f"{model} with {pretrained}"
            return _load(model, pretrained, device, named, offline=offline)

    @property
    def dimension(self) -> int:
        return int(self.config["model_cfg"]["embed_dim"])

    @property
    def context_length(self) -> int:
        """Tokens a text may have; longer texts are cut."""
        return self.tokenizer.context_length

    @property
    def logit_scale(self) -> float:
        """What the model multiplies similarities with before the softmax (1 / temperature)."""
        scale = cast(torch.Tensor, self.model.logit_scale)
        return float(scale.detach().exp().reshape(-1)[0])

    @cached_property
    def fingerprint(self) -> str:
        """16 hex characters over the configuration and every weight, whatever file held them."""
        import hashlib

        sha256 = hashlib.sha256(canonical_json(self.config))
        for name, tensor in sorted(self.model.state_dict().items()):
            array = tensor.detach().cpu().contiguous()
            sha256.update(canonical_json([name, str(array.dtype), list(array.shape)]))
            sha256.update(array.reshape(-1).view(torch.uint8).numpy().data)
        return sha256.hexdigest()[:16]

    def encode_images(self, images: Sequence[npt.NDArray[np.uint8]]) -> Vectors:
        """uint8 RGB arrays [height, width, 3] of any sizes -> float16 [n, dimension], unit."""
        return self._encode(len(images), lambda rows: self._images(images[rows]))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts -> float16 [n, dimension], unit; texts beyond the model's context are cut."""
        return self._encode(len(texts), lambda rows: self._texts(texts[rows]))

    def _images(self, images: Sequence[npt.NDArray[np.uint8]]) -> torch.Tensor:
        pixels = _padded(self.preprocess.stack(images), len(images)).to(self.device)
        return cast(Any, self.model).encode_image(self.preprocess.normalise(pixels))

    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        clean = [text.encode("utf-8", "replace").decode() for text in texts]  # lone surrogates
        tokens = _padded(self.tokenizer(clean), len(texts))
        return cast(Any, self.model).encode_text(tokens.to(self.device))

    def _encode(self, count: int, forward: Callable[[slice], torch.Tensor]) -> Vectors:
        vectors = np.empty((count, self.dimension), dtype=np.float16)
        start, low = 0, self.precision == "bfloat16"
        device = self.device.type
        with (
            torch.inference_mode(),
            torch.autocast(device, torch.bfloat16, low),
            bfloat16.products(device, low),
        ):
            while start < count:
                stop = min(start + self.chunk, count)
                try:
                    features = forward(slice(start, stop))[: stop - start].float()
                except torch.OutOfMemoryError as error:
                    self._halve(error)
                    continue
                features = F.normalize(features, dim=-1)
                if not bool(torch.isfinite(features).all()):
                    raise SluiceError(
                        "the embedding model gives values that are not numbers",
                        "its weights are damaged or its training diverged: name another model",
                    )
                vectors[start:stop] = features.cpu().numpy().astype(np.float16)
                start = stop
        return vectors

    def _halve(self, error: Exception) -> None:
        """Half as many samples from now on; SluiceError where even CHUNK are too many."""
        if self.chunk <= CHUNK:
            raise SluiceError(
                f"{CHUNK} samples do not fit into the memory of {self.device}: {error}",
                "lower run.workers, so that fewer share a GPU, or name a smaller model",
            ) from error
        self.chunk //= 2
        torch.cuda.empty_cache()


def _padded(batch: torch.Tensor, count: int) -> torch.Tensor:
    """Repeat the last sample up to a multiple of CHUNK; a single sample stays alone."""
    missing = -count % CHUNK
    if count == 1 or not missing:
        return batch
    return torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])])


def _folder(model: str, stack: contextlib.ExitStack) -> Path | None:
    """The local folder `model` names, fetched there if it is remote; None for a model's name."""
    url = model.removeprefix("local-dir:")
    if model.startswith("hf-hub:"):
        return None
    if not filesystem.is_local(url):
        local = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-model-")))
        for name in (CONFIG, WEIGHTS):
            if filesystem.exists(join(url, name)):
                (local / name).write_bytes(filesystem.read_bytes(join(url, name)))
        return local
    path = Path(filesystem.resolve(url)[1])
    if path.is_dir():
        return path
    if model != url or "/" in url or path.exists():
        raise SluiceError(
            f"no model folder at {url}",
            "give an open_clip name with a pretrained tag or checkpoint, or a folder with "
            f"{CONFIG} and {WEIGHTS}",
        )
    return None


def _check_folder(folder: Path) -> None:
    """Refuse a folder whose files are missing or do not fit, before open_clip guesses.

    open_clip stretches position embeddings of another size in silence; here every tensor must
    have the shape that the configuration asks for.
    """
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise SluiceError(
            f"{folder} is no model folder: it has no {' and no '.join(missing)}",
            "name a CLIP run of `pretrain`, or a folder saved by open_clip as safetensors",
        )
    try:
        config = json.loads((folder / CONFIG).read_bytes())["model_cfg"]
        complete = {"embed_dim", "vision_cfg", "text_cfg"} <= set(config)
    except (ValueError, KeyError, TypeError) as error:
        raise SluiceError(
            f"{folder / CONFIG} is not an open_clip configuration: {error!r}",
            'it needs {"model_cfg": {...}, "preprocess_cfg": {...}}',
        ) from error
    if not complete:
        raise SluiceError(
            f"{folder / CONFIG}: model_cfg lacks embed_dim, vision_cfg or text_cfg",
            "take the configuration from open_clip's model_configs",
        )
    _check_tower(config["vision_cfg"])


def _check_tower(vision_cfg: Any) -> None:
    """SluiceError for a tower that neither timm has nor a package that is installed beside it.

    That package is imported, so that open_clip finds the tower. One on a hub is left to timm.
    """
    tower = vision_cfg.get("timm_model_name") if isinstance(vision_cfg, dict) else None
    if isinstance(tower, str) and ":" not in tower:
        from indexes import outside  # timm, a second, which open_clip's own towers do without

        outside.check(tower)


def _check_name(model: str, pretrained: str | None) -> bool:
    """Refuse what open_clip does not know; True where `pretrained` is a file: no network."""
    open_clip = _open_clip()
    name = model.replace("/", "-")
    if name not in open_clip.list_models():
        raise SluiceError(
            f"open_clip knows no model {model!r}, and no folder has that name",
            "see open_clip.list_models() for names, or give a model folder",
        )
    tags: list[str] = open_clip.pretrained.list_pretrained_tags_by_model(name)
    shown = ", ".join(tags[:6]) + (", ..." if len(tags) > 6 else "") if tags else "it has none"
    if not pretrained:
        raise SluiceError(
            f"{model} is an architecture without weights",
            f"name a pretrained tag ({shown}) or a checkpoint file",
        )
    if open_clip.is_pretrained_cfg(name, pretrained):
        return False
    if not Path(pretrained).is_file():
        raise SluiceError(
            f"{pretrained!r} is neither a checkpoint file nor a pretrained tag of {model}",
            f"its tags: {shown}",
        )
    return True


def _load(
    name: str, pretrained: str | None, device: str, shown: str, *, offline: bool
) -> ClipEncoder:
    open_clip = _open_clip()
    try:
        with offline_hub() if offline else contextlib.nullcontext():
            model: torch.nn.Module = open_clip.create_model(
                name, pretrained, device=device, require_pretrained=True
            )
            tokenizer = Tokens(open_clip.get_tokenizer(name))
            model_cfg = open_clip.get_model_config(name)
    except Exception as error:  # open_clip raises whatever the layer below raised
        raise SluiceError(
            f"cannot load the model {shown}: {_first_line(error)}", _way_out(error)
        ) from error
    _check_shapes(model, name, shown)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in model.parameters()):
        raise SluiceError(
            f"the model {shown} holds weights that are not numbers",
            "its training diverged or its file is damaged: name another model",
        )
    preprocess_cfg = open_clip.get_model_preprocess_cfg(model)
    config = {"model_cfg": _plain(model_cfg), "preprocess_cfg": _plain(preprocess_cfg)}
    model.eval().requires_grad_(False)
    preprocess = Preprocess.from_config(preprocess_cfg)
    return ClipEncoder(model, tokenizer, preprocess, config, torch.device(device))


def _check_shapes(model: torch.nn.Module, name: str, shown: str) -> None:
    """Every tensor of a folder's weights must have the shape the model has."""
    if not name.startswith("local-dir:"):
        return
    safetensors: Any = importlib.import_module("safetensors")
    state = model.state_dict()
    weights = Path(name.removeprefix("local-dir:")) / WEIGHTS
    with safetensors.safe_open(weights, framework="pt") as file:
        keys: list[str] = list(file.keys())
        for key in keys:
            shape: tuple[int, ...] = tuple(file.get_slice(key).get_shape())
            if key in state and shape != tuple(state[key].shape):
                raise SluiceError(
                    f"the weights in {shown} do not fit its configuration: {key} has shape "
                    f"{shape}, the model {tuple(state[key].shape)}",
                    f"put the {CONFIG} beside the weights that it was written with",
                )


def _open_clip() -> Any:
    """open_clip has no type stubs; Any says so in one place."""
    return importlib.import_module("open_clip")


def _plain(value: Any) -> Any:
    """JSON's types: the same configuration from a file and from a dataclass."""
    return json.loads(json.dumps(value))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2])[:300]


def _way_out(error: Exception) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if any(sign in text for sign in ("download", "connect", "offline", "hub", "urlopen", "http")):
        return (
            "the model is not on this machine and its host was not reached: connect, or name a "
            "model folder or a checkpoint file"
        )
    if "state_dict" in text or "size mismatch" in text:
        return "the checkpoint belongs to another model: name the model it was trained as"
    return "check that the file is whole and that it belongs to this model"
