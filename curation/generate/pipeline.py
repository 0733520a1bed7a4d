"""A loaded diffusers pipeline, and the images that it draws of prompts and seeds.

Nothing is asked of a pipeline but that it is called with prompts and generators and gives images:
every text-to-image class of diffusers does. Weights are read as safetensors; no code of a model
is run; a connection is opened for a name on a hub alone.
"""

import contextlib
import importlib.util
import inspect
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from curation.decode import Pixels
from curation.generate.model import (
    SAFETY,
    Model,
    check_folder,
    fingerprint,
    parts,
    read_index,
)
from curation.generate.reasons import BLANK_IMAGE, NOT_FINITE, PIPELINE_FAILED, UNSAFE
from curation.generate.settings import GenerateSettings
from curation.networks import first_line, library, whole_weights
from indexes.hub import hub_reachable, offline_hub, quiet_loading
from infra.errors import SluiceError

NEUTRAL = ("a photo", 0)  # what every pipeline can draw
FLAGS = ("nsfw_content_detected", "nsfw_detected")  # of a pipeline's output
NEEDED = ("prompt", "generator", "num_inference_steps", "output_type")

Wanted = tuple[str, int]  # a prompt, and the seed of its noise


class Drawn(NamedTuple):
    """An image, uint8 RGB [height, width, 3], or the reason why there is none."""

    image: Pixels | None
    reason: str | None
    chunk: int  # images that were drawn together


@dataclass(eq=False)
class TextToImage:
    """A pipeline that stays loaded.

    An image depends on its own prompt and seed alone, not on what it is drawn with: its noise
    comes from a generator of its own, on the CPU for every device, and chunks always have the
    same size, the last one filled up, because products of another shape may add in another order.
    That holds where the pipeline pads prompts to one length, as Stable Diffusion in all versions,
    Flux and PixArt do; where one pads to the longest of a chunk, use a chunk of 1. Another kind
    of device, or a chunk that memory made smaller, may change bits.
    """

    pipeline: Any
    settings: GenerateSettings
    model: Model
    fingerprint: str
    precision: str
    device: torch.device
    chunk: int

    def told(self, drawn: Drawn | None) -> dict[str, Any]:
        """What decided an image, for its row; where none was drawn, what was asked for."""
        asked = self.settings
        shape = drawn.image.shape if drawn is not None and drawn.image is not None else None
        return {
            "negative_prompt": asked.negative_prompt,
            "guidance_scale": asked.guidance_scale,
            "steps": asked.steps,
            "scheduler": type(self.pipeline.scheduler).__name__,
            "size": [shape[1], shape[0]] if shape else asked.size,
            "options": dict(asked.options),
            "model": self.model.name,
            "fingerprint": self.fingerprint,
            "pipeline": type(self.pipeline).__name__,
            "precision": self.precision,
            "safety": asked.safety,
            "chunk": drawn.chunk if drawn is not None else None,
        }

    def draw(self, wanted: Sequence[Wanted]) -> Iterator[Drawn]:
        """An answer for each prompt and seed, in order."""
        start = 0
        while start < len(wanted):
            piece = wanted[start : start + self.chunk]
            try:
                answers = self._answers(piece)
            except torch.OutOfMemoryError as error:
                self._halve(error)
                continue
            yield from answers
            start += len(piece)

    def _answers(self, piece: Sequence[Wanted]) -> list[Drawn]:
        """A chunk; where the pipeline fails at it, each of its prompts by itself."""
        try:
            return self._forward(piece)
        except (torch.OutOfMemoryError, SluiceError):
            raise
        except Exception as error:  # whatever the layers below raised
            why = error
        if len(piece) > 1:
            return [answer for one in piece for answer in self._answers([one])]
        try:
            self._forward([NEUTRAL])
        except (torch.OutOfMemoryError, SluiceError):
            raise
        except Exception as error:
            raise SluiceError(
                f"{self.model.name} draws nothing with these settings: {first_line(error)}",
                "look at size, scheduler and options; defaults are the pipeline's own",
            ) from why
        return [Drawn(None, PIPELINE_FAILED, self.chunk)]

    def _forward(self, piece: Sequence[Wanted]) -> list[Drawn]:
        full = [*piece, *[piece[-1]] * (self.chunk - len(piece))]
        generators = [torch.Generator().manual_seed(seed) for _, seed in full]
        with torch.inference_mode(), _repeatable(self.device, full[0][1]), _out_of_memory():
            output = self.pipeline(
                prompt=[prompt for prompt, _ in full],
                generator=generators,
                output_type="np",
                **self._arguments(len(full)),
            )
        images = np.asarray(output.images, np.float32)[: len(piece)]
        flagged = self._flagged(output, len(full))
        return [
            _drawn(image, flag, self.chunk) for image, flag in zip(images, flagged, strict=False)
        ]

    def _arguments(self, count: int) -> dict[str, Any]:
        """What the pipeline is called with for `count` prompts, beside these."""
        asked, arguments = self.settings, dict[str, Any](self.settings.options)
        arguments["num_inference_steps"] = asked.steps
        if asked.guidance_scale is not None:
            arguments["guidance_scale"] = asked.guidance_scale
        if asked.size is not None:
            arguments["width"], arguments["height"] = asked.size
        if asked.negative_prompt:
            arguments["negative_prompt"] = [asked.negative_prompt] * count
        return arguments

    def _flagged(self, output: Any, count: int) -> list[bool]:
        if not self.settings.safety:
            return [False] * count
        found = next((flags for name in FLAGS if (flags := getattr(output, name, None))), None)
        if found is None:
            raise SluiceError(
                f"{self.model.name} has a safety checker but does not tell what it found",
                "say `safety: off`, and let rules judge the images",
            )
        return [bool(flag) for flag in found]

    def _halve(self, error: Exception) -> None:
        """Half as many images at once from now on; SluiceError where even one is too many."""
        if self.chunk == 1:
            raise _no_room("one image does", self.device, error) from error
        self.chunk //= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _drawn(image: Any, unsafe: bool, chunk: int) -> Drawn:
    """image: float32 [height, width, 3] in 0..1."""
    if unsafe:
        return Drawn(None, UNSAFE, chunk)
    if not np.isfinite(image).all():
        return Drawn(None, NOT_FINITE, chunk)
    pixels = np.round(image.clip(0, 1) * 255).astype(np.uint8)
    if (pixels == pixels[0, 0]).all():
        return Drawn(None, BLANK_IMAGE, chunk)
    return Drawn(pixels, None, chunk)


@contextlib.contextmanager
def _repeatable(device: torch.device, seed: int) -> Generator[None]:
    """The same products every time, and whatever noise comes from no generator of ours.

    On a CPU by one thread, as workers have, wherever this is called: more would add in another
    order.
    """
    strict, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.manual_seed(seed)
        if cuda:
            torch.use_deterministic_algorithms(True, warn_only=True)
        else:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if cuda:
                torch.use_deterministic_algorithms(strict)
            else:
                torch.set_num_threads(threads)


@contextlib.contextmanager
def _out_of_memory() -> Generator[None]:
    """On a CPU, too, it is an OutOfMemoryError; PyTorch has none there."""
    try:
        yield
    except MemoryError as error:
        raise torch.OutOfMemoryError(str(error)) from error
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "not enough memory" not in str(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def load(model: Model, settings: GenerateSettings, precision: str) -> TextToImage:
    """The pipeline, loaded once per process, onto a GPU where this process sees one.

    Raises SluiceError where it is not there, lacks a part, or cannot do what the settings ask.
    """
    return _kept(model, settings.model_dump_json(), precision)


@lru_cache(maxsize=1)
def _kept(model: Model, settings_json: str, precision: str) -> TextToImage:
    settings = GenerateSettings.model_validate_json(settings_json)
    diffusers, folder = library("diffusers"), Path(model.location)
    if model.commit is not None:
        folder = _downloaded(diffusers, model, settings.variant)
        check_folder(folder, settings.safety)
    content = fingerprint(folder)
    if model.commit is None and content != model.content:
        raise SluiceError(
            f"{folder} is not what it was when the run was planned: {content}, not {model.content}",
            "give every machine the same folder, and run the same command again",
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = _loaded(diffusers, folder, model.name, settings, precision, device)
    _check_call(pipeline, settings, model.name)
    return TextToImage(pipeline, settings, model, content, precision, device, settings.chunk)


def _loaded(
    diffusers: Any,
    folder: Path,
    name: str,
    settings: GenerateSettings,
    precision: str,
    device: torch.device,
) -> Any:
    # Parts that its index says it does without must be passed as such.
    without = {part: None for part, value in read_index(folder).items() if value == [None, None]}
    if not settings.safety and SAFETY in parts(folder):
        without[SAFETY] = None
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else products may differ
    try:
        with offline_hub(), whole_weights(name, "diffusers", "transformers"):
            pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(
                str(folder),
                dtype=getattr(torch, precision),
                variant=settings.variant,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                low_cpu_mem_usage=importlib.util.find_spec("accelerate") is not None,
                **without,
            )
            pipeline = pipeline.to(device)
    except torch.OutOfMemoryError as error:
        raise _no_room(f"the pipeline {name} does", device, error) from error
    except SluiceError:
        raise
    except Exception as error:  # diffusers raises whatever the layer below raised
        raise SluiceError(
            f"cannot load the pipeline {name}: {first_line(error)}",
            "see that the folder is whole: each part that model_index.json names, and all weights",
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    if settings.scheduler is not None:
        _replace_scheduler(diffusers, pipeline, settings.scheduler)
    return pipeline


def _no_room(what: str, device: torch.device, error: Exception) -> SluiceError:
    return SluiceError(
        f"{what} not fit into the memory of {device}: {first_line(error)}",
        "lower run.workers, so that fewer share it, or name a smaller model, a smaller size, or "
        "bfloat16",
    )


def _downloaded(diffusers: Any, model: Model, variant: str | None) -> Path:
    """The folder of a hub's repository, in the cache of this machine."""
    try:
        with quiet_loading():
            return Path(
                diffusers.DiffusionPipeline.download(
                    model.location,
                    revision=model.commit,
                    variant=variant,
                    use_safetensors=True,
                    trust_remote_code=False,
                    local_files_only=not hub_reachable(),
                )
            )
    except Exception as error:
        raise SluiceError(
            f"cannot get the pipeline {model.name} from its hub: {first_line(error)}",
            "connect, or name a folder; weights must be there as .safetensors",
        ) from error


def _replace_scheduler(diffusers: Any, pipeline: Any, name: str) -> None:
    """Another way to take the steps, with the settings of the pipeline's own scheduler."""
    kind = getattr(diffusers, name, None)
    own = pipeline.scheduler
    fitting = sorted({each.__name__ for each in own.compatibles} | {type(own).__name__})
    if kind is None or name not in fitting:
        raise SluiceError(
            f"{name} is no scheduler for this pipeline", f"name one of {', '.join(fitting)}"
        )
    pipeline.scheduler = kind.from_config(own.config)


def _check_call(pipeline: Any, settings: GenerateSettings, name: str) -> None:
    """Before any image: the pipeline takes what the settings ask for, and needs no more."""
    takes: Mapping[str, inspect.Parameter] = inspect.signature(pipeline.__call__).parameters
    missing = [each for each in NEEDED if each not in takes]
    asked: dict[str, Any] = {
        "guidance_scale": settings.guidance_scale,
        "negative_prompt": settings.negative_prompt or None,
        "width": settings.size,
        "height": settings.size,
        **settings.options,
    }
    kind = type(pipeline).__name__
    if missing or getattr(pipeline, "scheduler", None) is None or "image" in _required(takes):
        raise SluiceError(
            f"{name} ({kind}) does not make images of text alone",
            "name a text-to-image pipeline, such as those of AutoPipelineForText2Image",
        )
    unknown = [each for each, value in asked.items() if value is not None and each not in takes]
    if unknown:
        raise SluiceError(
            f"{name} ({kind}) takes no {unknown[0]}",
            f"leave it out of `data.generate`{', as null' * (unknown[0] == 'guidance_scale')}",
        )


def _required(takes: Mapping[str, inspect.Parameter]) -> list[str]:
    return [name for name, each in takes.items() if each.default is inspect.Parameter.empty]
