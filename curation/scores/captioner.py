"""Any image-to-text model of transformers, as one that writes a caption for each image.

What is written for an image depends on no other image. Each is prepared alone, so that nothing is
padded to the size of another, and on a CPU it passes through the network alone: in a matrix
product a row's place decides in which order numbers are added, and a token on the brink would fall
to the other side. On a GPU images whose tensors have equal shapes pass in chunks of one size, the
last one filled up, which leaves less to chance but not nothing: a chunk that was halved where
memory is short, or another device, may round in another way.

Tokens are drawn by the Gumbel-max trick: the likeliest after noise of the Gumbel distribution is
added to the logits is a draw of their softmax (Gumbel 1954). The noise is keyed by seed and uid.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from curation.decode import Pixels
from curation.networks import HUB, find_place, first_line, library, whole_weights
from indexes.hub import hub_reachable, offline_hub
from infra.digests import generator
from infra.errors import SluiceError

GPU_CHUNK = 32  # images that pass together on a GPU
KINDS = (
    "a captioner is a folder that transformers saved, with a processor and weights as safetensors, "
    f"or {HUB}OWNER/NAME"
)
TALK = "Describe this image in one sentence."  # what a model made for talks is told by default
ENCODER_DECODER = "vision-encoder-decoder"  # whose decoder has a tokenizer of its own


class Written(NamedTuple):
    """text: as the tokenizer gives it. tokens: but for special ones, of which it is made.

    confidence: the geometric mean of their probabilities, 0..1.
    """

    text: str
    tokens: int
    confidence: float


class Prepared(NamedTuple):
    """An image as the network takes it. place: among those asked about."""

    place: int
    uid: str
    inputs: Mapping[str, Tensor]


class Asked(Protocol):
    """How captions are to be written, see `CaptionSettings`."""

    @property
    def prompt(self) -> str: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def beams(self) -> int: ...

    @property
    def temperature(self) -> float: ...

    @property
    def seed(self) -> int: ...


@dataclass(eq=False)
class Captioner:
    """A loaded model with what prepares images and texts for it.

    chunk: images of a pass; halved where a GPU's memory does not hold them.
    """

    name: str
    model: Any
    processor: Any  # of images and texts; of images alone for ENCODER_DECODER
    tokenizer: Any
    device: torch.device
    chunk: int

    @staticmethod
    def load(model: str, precision: Literal["float32", "bfloat16"]) -> "Captioner":
        """From a folder or a hub. SluiceError where it is not there, not whole or no captioner."""
        transformers = library("transformers")
        place, on_hub = find_place(model, KINDS)
        offline = not on_hub or not hub_reachable()
        options = {"trust_remote_code": False, "local_files_only": offline}
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(whole_weights(model, "transformers"))
                if offline:
                    stack.enter_context(offline_hub())
                network = transformers.AutoModelForImageTextToText.from_pretrained(
                    place, use_safetensors=True, dtype=getattr(torch, precision), **options
                )
                processor, tokenizer = _prepares(transformers, network, place, options)
        except SluiceError:
            raise
        except Exception as error:  # transformers raises whatever the layer below raised
            why = first_line(error)
            raise SluiceError(f"cannot load the captioner {model}: {why}", KINDS) from error
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = network.to(device).eval().requires_grad_(False)
        chunk = 1 if device.type == "cpu" else GPU_CHUNK
        return Captioner(model, network, processor, tokenizer, device, chunk)

    def write(self, images: Sequence[Pixels], uids: Sequence[str], asked: Asked) -> list[Written]:
        """A caption for each of uint8 RGB [height, width, 3] of any sizes."""
        found: dict[int, Written] = {}
        waiting: dict[Any, list[Prepared]] = {}  # by the shapes of their tensors
        try:
            for place, image in enumerate(images):
                inputs = self._ready(image, asked.prompt)
                shapes = tuple((name, value.shape) for name, value in sorted(inputs.items()))
                group = waiting.setdefault(shapes, [])
                group.append(Prepared(place, uids[place], inputs))
                if len(group) >= self.chunk:
                    found |= self._group(waiting.pop(shapes), asked)
            for group in waiting.values():
                found |= self._group(group, asked)
        except SluiceError:
            raise
        except Exception as error:  # a model that loads may yet take other inputs, or none
            raise SluiceError(
                f"{self.name} writes no caption: {first_line(error)}",
                "name a model that takes one image and a prompt, or mend the prompt",
            ) from error
        return [found[place] for place in range(len(images))]

    def _group(self, group: Sequence["Prepared"], asked: Asked) -> dict[int, Written]:
        """Captions by place, of images of equal shapes."""
        found: dict[int, Written] = {}
        start = 0
        while start < len(group):
            part = group[start : start + self.chunk]
            try:
                written = self._pass(part, asked)
            except torch.OutOfMemoryError as error:
                self._halve(error)
                continue
            found |= {each.place: text for each, text in zip(part, written, strict=True)}
            start += len(part)
        return found

    def _ready(self, image: Pixels, prompt: str) -> dict[str, Tensor]:
        """The tensors of one image, [1, ...] or as many rows as it has pieces."""
        picture = Image.fromarray(image)
        kind: str = self.model.config.model_type
        if kind == ENCODER_DECODER:
            ready = dict(self.processor(images=picture, return_tensors="pt"))
            if prompt:
                first = self.model.generation_config.decoder_start_token_id
                ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
                ready["decoder_input_ids"] = torch.tensor([[first, *ids]])
        elif getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": prompt or TALK}]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            ready = dict(self.processor(images=picture, text=text, return_tensors="pt"))
        else:
            texts = {"text": prompt} if prompt else {}
            ready = dict(self.processor(images=picture, return_tensors="pt", **texts))
            if prompt and kind == "git":  # without the mark that ends it; BLIP does so by itself
                ids = ready["input_ids"][:, :-1]
                ready = {"pixel_values": ready["pixel_values"], "input_ids": ids}
        return {name: value for name, value in ready.items() if isinstance(value, Tensor)}

    def _pass(self, part: Sequence["Prepared"], asked: Asked) -> list[Written]:
        """Captions of at most `chunk` images, through the network at once."""
        every = [*part, *[part[-1]] * (self.chunk - len(part))]
        inputs = {
            name: self._moved(torch.cat([each.inputs[name] for each in every]))
            for name in part[0].inputs
        }
        noise = Noise([each.uid for each in every], asked)
        with torch.inference_mode():
            made = self.model.generate(
                **inputs,
                max_new_tokens=asked.max_tokens,
                num_beams=asked.beams,
                do_sample=False,
                num_return_sequences=1,
                logits_processor=[noise],
                return_dict_in_generate=True,
                output_logits=True,
            )
        chosen = made.sequences[:, noise.start :]
        sure = probabilities(chosen, made.logits, getattr(made, "beam_indices", None))
        return [
            self._written(row, logs)
            for row, logs in zip(chosen[: len(part)].cpu(), sure[: len(part)].cpu(), strict=True)
        ]

    def _moved(self, value: Tensor) -> Tensor:
        kind = self.model.dtype if value.is_floating_point() else None
        return value.to(self.device, kind)

    def _written(self, row: Tensor, logs: Tensor) -> Written:
        """row: the ids of one caption, and what fills it up; logs: their log-probabilities."""
        special = torch.isin(row, torch.tensor(self.tokenizer.all_special_ids))
        own = logs[~special]
        if bool(torch.isnan(logs).any()):
            raise SluiceError(
                f"{self.name} gives probabilities that are not numbers",
                "its weights are damaged or its training diverged: name another model",
            )
        text: str = self.tokenizer.decode(row[~special], skip_special_tokens=True)
        return Written(text, len(own), float(own.mean().exp()) if len(own) else 0.0)

    def _halve(self, error: Exception) -> None:
        """Half as many images from now on; SluiceError where not even one fits."""
        if self.chunk == 1:
            raise SluiceError(
                f"one image does not fit into the memory of {self.device}: {first_line(error)}",
                "lower run.workers, so that fewer share a GPU, or name a smaller model",
            ) from error
        self.chunk //= 2
        torch.cuda.empty_cache()


def _prepares(
    transformers: Any, network: Any, place: str, options: Mapping[str, Any]
) -> tuple[Any, Any]:
    """What prepares images (and texts, but for ENCODER_DECODER), and the tokenizer."""
    if network.config.model_type == ENCODER_DECODER:
        processor = transformers.AutoImageProcessor.from_pretrained(place, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **options)
    else:
        processor = transformers.AutoProcessor.from_pretrained(place, **options)
        tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError("there is no tokenizer, or one without a vocabulary")
    return processor, tokenizer


class Noise:
    """Told the scores of the next tokens before one is chosen; where tokens are drawn, adds noise.

    start: how many tokens of the sequence were there before the first was written.
    """

    def __init__(self, uids: Sequence[str], asked: Asked) -> None:
        self.start = 0
        self._seen = False
        self._temperature = asked.temperature
        drawn = uids if asked.temperature else ()
        self._numbers = [generator(asked.seed, "caption", uid) for uid in drawn]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self._seen:
            self.start, self._seen = input_ids.shape[1], True
        if not self._numbers:
            return scores
        width = scores.shape[1]
        drawn = np.stack([numbers.gumbel(size=width) for numbers in self._numbers])
        noise = torch.from_numpy(drawn.astype(np.float32)).to(scores.device)
        return scores.float() / self._temperature + noise


def probabilities(chosen: Tensor, logits: Sequence[Tensor], beams: Tensor | None) -> Tensor:
    """Log-probabilities of chosen tokens [images, steps], float32.

    logits: [images, vocabulary] of each step; with beams: [images * beams, vocabulary], beams
    being the row that each token came from, [images, steps], -1 behind the end.
    """
    found = torch.zeros(chosen.shape, device=chosen.device)
    for step in range(chosen.shape[1]):
        rows = torch.arange(len(chosen), device=chosen.device)
        if beams is not None:
            rows = beams[:, step].clamp(min=0)
        known = logits[step][rows].float().log_softmax(-1)
        found[:, step] = known.gather(1, chosen[:, step : step + 1])[:, 0]
    return found
