"""Captions that an image-to-text model writes, beside those that samples came with."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from curation.decode import Pixels
from curation.score import Batch, Ready, Scores, filled
from curation.scores.clip import content_name
from curation.units import BETTER, column

if TYPE_CHECKING:
    from curation.scores.captioner import Captioner

LONGEST = 2000  # characters of a caption
JOINERS = "\u200c\u200d"  # unprintable, and part of words in several scripts


@dataclass(frozen=True)
class CaptionScorer:
    """Columns, null for images that cannot be decoded:

    caption      string, what the model writes: one line of at most LONGEST characters, none of
                 them a control character; null where it writes nothing
    tokens       int32, how many the model wrote, without that which ends a caption; as many as
                 `max_tokens` where it was cut
    confidence   float32 0..1, the geometric mean of their probabilities; null without any

    Any image-to-text model of transformers, from a folder or a hub; weights as safetensors alone,
    no code of the model's own. Each caption depends on its own image (where tokens are drawn, on
    its uid, too), see `curation.scores.captioner`.
    prompt, beams, temperature, seed: see `CaptionSettings`.
    """

    name: str
    model: str
    prompt: str = ""
    max_tokens: int = 48
    beams: int = 1
    temperature: float = 0.0
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"

    code = 1
    reads_images = True
    reads_vectors = ()
    vectors = ()
    columns = pa.schema(
        [
            pa.field("caption", pa.string()),
            column("tokens", pa.int32(), "tokens"),
            column("confidence", pa.float32(), "probability", BETTER),
        ]
    )

    def settings(self) -> Mapping[str, Any]:
        drawn = {"temperature": self.temperature, "seed": self.seed} if self.temperature else {}
        return {
            "kind": "caption",
            "model": content_name(self.model),
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "beams": self.beams,
            "precision": self.precision,
            **drawn,
        }

    def ready(self) -> Ready:
        return Ready(_as_it_is, load_captioner(self.model, self.precision).device.type != "cpu")

    def score(self, batch: Batch) -> Scores:
        positions, images = batch.decoded()
        uids: list[str] = batch.rows["uid"].take(pa.array(positions, pa.int64())).to_pylist()
        captioner = load_captioner(self.model, self.precision) if positions else None
        written = captioner.write(images, uids, self) if captioner else []
        texts = [clean(each.text) for each in written]
        values: dict[str, list[Any]] = {
            "caption": [text or None for text in texts],
            "tokens": [each.tokens for each in written],
            "confidence": [each.confidence if each.tokens else None for each in written],
        }
        columns = {
            field.name: filled(len(batch), positions, values[field.name], field.type)
            for field in self.columns
        }
        return Scores(pa.table(columns))


def _as_it_is(image: Pixels) -> Pixels:
    return image


def clean(text: str) -> str:
    """In one line, without what a terminal or a page would obey, and not endless."""
    shown = "".join(sign if sign.isprintable() or sign in JOINERS else " " for sign in text)
    return " ".join(shown.split())[:LONGEST].rstrip()


@lru_cache(maxsize=1)
def load_captioner(model: str, precision: Literal["float32", "bfloat16"]) -> "Captioner":
    """The model, loaded once per process, onto a GPU where this process sees one.

    Its imports are heavy, so they are made here.
    """
    from curation.scores.captioner import Captioner

    return Captioner.load(model, precision)
