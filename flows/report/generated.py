"""What drew the pool, and of what: for pools of generated images alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curation.generate.prompts import NOT_CHOSEN
from curation.generate.reasons import MEANINGS
from flows.report.context import ReportContext
from flows.report.samples import clean
from infra import artifacts
from infra.artifacts import Artifact
from infra.charts import number
from infra.dataset import Dataset
from infra.filesystem import join

STAGE = "curation.generate"


@dataclass(frozen=True)
class Generated:
    """Facts as pairs of name and text, about the images and about their prompts."""

    images: Sequence[tuple[str, str]]
    prompts: Sequence[tuple[str, str]]


def generated(context: ReportContext) -> Generated | None:
    """From the pool's manifest and its first row; None for any other pool."""
    pool = artifacts.load(context.pool) if context.pool else None
    if pool is None or pool.manifest["spec"]["stage"] != STAGE:
        return None
    meta = _first_meta(Dataset(pool))
    asked = pool.settings
    size = asked["size"] or meta.get("size")
    return Generated(
        [
            ("Model", clean(str(meta.get("model", "")))),
            ("Fingerprint", str(meta.get("fingerprint", ""))),
            ("Pipeline", str(meta.get("pipeline", ""))),
            ("Guidance scale", "none" if (g := asked["guidance_scale"]) is None else number(g)),
            ("Steps", number(asked["steps"])),
            ("Scheduler", str(meta.get("scheduler", ""))),
            ("Negative prompt", clean(asked["negative_prompt"]) or "none"),
            ("Size", f"{size[0]} × {size[1]} pixels" if size else "the pipeline's own"),
            ("Seed", str(asked["seed"])),
            ("Safety checker", "on" if asked["safety"] else "off"),
            ("Precision", asked["precision"]),
        ],
        _prompts(pool),
    )


def _first_meta(dataset: Dataset) -> Mapping[str, Any]:
    first = next(iter(dataset.shards), None)
    if first is None:
        return {}
    return json.loads(dataset.rows(first, ["meta"])["meta"][0].as_py() or "{}")


def _prompts(pool: Artifact) -> list[tuple[str, str]]:
    """Counts of the prompts that the pool is drawn of, where they are still beside it."""
    (digest,) = pool.manifest["spec"]["parents"]
    made = artifacts.load(join(pool.url.rstrip("/").rpartition("/")[0], "prompts", digest))
    each = number(pool.settings["images_per_prompt"])
    if made is None:
        return [("Images of each", each)]
    dropped = made.totals["dropped"]
    refused = sum(dropped.get(reason, 0) for reason in MEANINGS)
    return [
        ("Texts read", number(made.totals["rows"])),
        ("Copies of another", number(dropped.get("duplicate_prompt", 0))),
        ("Not chosen", number(dropped.get(NOT_CHOSEN, 0))),
        ("Refused", number(refused)),
        ("Drawn", number(made.totals["kept"])),
        ("Images of each", each),
    ]
