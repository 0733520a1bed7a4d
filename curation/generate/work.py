"""The pool that a pipeline draws: a draft, its items, and the work that draws one shard.

Image `number` is of prompt `number % prompts`, its `number // prompts`-th: shards that are taken
in order see all prompts from the start.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from curation.columns import artifact_at
from curation.generate.model import Model
from curation.generate.prompts import Prompt, prompts_of
from curation.generate.settings import GenerateSettings
from curation.scores.clip import best_precision
from infra.artifacts import Artifact, Part, Spec
from infra.dataset import ShardWriter, make_uid, part_name
from infra.digests import digest
from infra.errors import SluiceError
from infra.feeding import produced
from infra.filesystem import join
from infra.stage import Draft, Item

if TYPE_CHECKING:
    from curation.decode import Pixels
    from curation.generate.pipeline import Drawn

CODE = 1
SOURCE = "generated"
SEED_BITS = 63
ENCODED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {"compress_level": 3}),
    "jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "webp": ("WEBP", {"lossless": True}),
}


def generate_draft(
    store: str, name: str, settings: GenerateSettings, model: Model, prompts: Draft
) -> Draft:
    """The dataset version `<store>/<name>/<digest>` to be; it depends on where nothing lies."""
    asked = settings.model_dump(mode="json", exclude={"model", "revision", "prompts", "precision"})
    identity = {
        **asked,
        "label": settings.prompts.label,
        "model": {"name": model.name, "content": model.content},
        "precision": precision(settings),
    }
    spec = Spec("dataset", "curation.generate", identity, (prompts.spec.digest,), CODE)
    return Draft(join(store, name, spec.digest), spec)


def precision(settings: GenerateSettings) -> str:
    """What `auto` stands for on this machine."""
    return best_precision() if settings.precision == "auto" else settings.precision


def generate_items(settings: GenerateSettings, prompts: Artifact) -> list[Item]:
    """One item a shard; its value is the shard's number."""
    shards = -(-total(settings, prompts) // settings.rows_per_shard)
    return [Item(part_name(shard), shard) for shard in range(shards)]


def total(settings: GenerateSettings, prompts: Artifact) -> int:
    """Number of rows: every prompt, drawn or not, as often as it is asked for."""
    return count(prompts) * settings.images_per_prompt


def count(prompts: Artifact) -> int:
    """Number of prompts, refused ones included."""
    return prompts.parts[0].extra["prompts"]


def image_seed(seed: int, prompt: str, number: int) -> int:
    """Seed of the noise of a prompt's `number`-th image: SHA-256, cut to 63 bits.

    Of nothing else, so that an image is the same in any shard, on any worker, beside any others.
    """
    whole = hashlib.sha256(f"{seed}\0{number}\0{prompt}".encode()).digest()
    return int.from_bytes(whole[:8], "big") >> 64 - SEED_BITS


@dataclass(frozen=True)
class GenerateWork:
    """Draws and writes one shard of the version at `url`."""

    url: str
    prompts_url: str
    settings: GenerateSettings
    model: Model
    precision: str

    def __call__(self, value: int, todo: Sequence[str]) -> dict[str, Part]:
        from curation.generate.pipeline import load

        made, size = artifact_at(self.prompts_url), self.settings.rows_per_shard
        first, last = value * size, min((value + 1) * size, total(self.settings, made))
        asked = [(number // count(made), prompt) for number, prompt in _numbered(made, first, last)]
        pipeline = load(self.model, self.settings, self.precision)
        wanted = [
            (prompt.prompt, image_seed(self.settings.seed, prompt.prompt, number))
            for number, prompt in asked
            if prompt.reason is None
        ]
        drawn, states = produced(pipeline.draw(wanted)), Counter[str]()
        with ShardWriter(self.url, value) as writer:
            for row, (number, prompt) in enumerate(asked):
                answer = next(drawn) if prompt.reason is None else None
                values, image = self._row(value, row, number, prompt, answer)
                writer.add({**values, "meta": _json(pipeline.told(answer) | values["meta"])}, image)
                states[values["reason"] or ""] += 1
        kept = states.pop("", 0)
        part = Part(part_name(value), tuple(writer.files), last - first, kept, dict(states))
        return dict.fromkeys(todo, part)

    def _row(
        self, shard: int, row: int, number: int, prompt: Prompt, drawn: "Drawn | None"
    ) -> tuple[dict[str, Any], bytes | None]:
        """The row (schema ROWS; `meta` a mapping yet) and the file of a prompt's image."""
        asked = self.settings
        label = {asked.prompts.label: prompt.label} if prompt.label is not None else {}
        name = digest([prompt.prompt, prompt.reason])
        values: dict[str, Any] = {
            "shard": shard,
            "row": row,
            "source": f"{SOURCE}/{name}/{number}",
            "caption": prompt.prompt,
            "reason": prompt.reason if drawn is None else drawn.reason,
            "meta": {
                **label,
                "prompt": prompt.prompt,
                "number": number,
                "seed": asked.seed,
                "noise_seed": image_seed(asked.seed, prompt.prompt, number),
            },
        }
        if drawn is None or drawn.image is None:
            uid = make_uid(None, values["source"], None)
            return values | {"status": "rejected", "uid": uid}, None
        image = encode(drawn.image, asked.format)
        height, width = drawn.image.shape[:2]
        values |= {
            "status": "ok",
            "uid": make_uid(None, None, image),
            "sha256": hashlib.sha256(image).hexdigest(),
            "format": asked.format,
            "width": width,
            "height": height,
        }
        return values, image


def _numbered(prompts: Artifact, first: int, last: int) -> list[tuple[int, Prompt]]:
    """Images `first` to `last`, less one, with their prompts; a shard may begin anew with them."""
    every, found = count(prompts), list[tuple[int, Prompt]]()
    while first < last:
        start = first % every
        stop = min(start + last - first, every)
        found += enumerate(prompts_of(prompts, start, stop), first)
        first += stop - start
    return found


def encode(image: "Pixels", form: str) -> bytes:
    """The image as a file without metadata: the same pixels give the same bytes."""
    buffer, (name, options) = io.BytesIO(), ENCODED[form]
    Image.fromarray(image).save(buffer, name, **options)
    return buffer.getvalue()


def _json(meta: Mapping[str, Any]) -> str:
    return json.dumps(meta, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def refuse_nothing(parts: Mapping[str, Sequence[Part]]) -> dict[str, dict[str, Any]]:
    """Before the commit: something must have been drawn. Raises SluiceError with the reasons."""
    if not any(part.kept for made in parts.values() for part in made):
        found = (Counter(part.dropped) for made in parts.values() for part in made)
        dropped = sum(found, Counter[str]())
        counts = ", ".join(f"{number} {reason}" for reason, number in sorted(dropped.items()))
        raise SluiceError(
            f"no image was drawn that can be kept: {counts}",
            "look at these reasons: float32 in place of another precision, another guidance "
            "scale or more steps help where images are blank or no numbers",
        )
    return {}
