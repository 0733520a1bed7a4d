"""Joint training: several objectives learn at once, each from its own sources, on one encoder.

The single stage of M3I: Su et al. 2022, "Towards All-in-one Pre-training via Maximizing
Multi-modal Mutual Information" (arXiv:2211.09807), whose loss is a weighted sum over pairs of
inputs and targets. Here each term is an objective of this package, on samples of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn

from infra.digests import generator
from infra.errors import SluiceError
from pretrain import objectives
from pretrain.backbones import (
    CONFIG,
    IMAGENET_MEAN,
    IMAGENET_STD,
    WEIGHTS,
    TimmEncoder,
    build_encoder,
)
from pretrain.data import Batch
from pretrain.declare import Pooling
from pretrain.distributed import ALONE, spread, weight
from pretrain.objectives.base import Objective
from pretrain.options.joint import JointOptions, Part
from pretrain.settings import TrainSettings
from pretrain.sharing import sharing

OPENAI = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
REBUILT = frozenset({"drop_path_rate"})  # of model_kwargs: open_clip builds the same without


class Joint(Objective):
    """The encoder, and the objectives that train it, each with what it adds.

    A part that got fewer samples than it can learn from is left out of the step, and `skipped`,
    int64 [parts], counts that. Of several processes each has a share of a part's samples, or, where
    that would be too few for one of them, all of them: it then learns in each as in one process.
    """

    skipped: Tensor
    rests = True

    def __init__(
        self, settings: TrainSettings, encoder: TimmEncoder, parts: Mapping[str, Objective]
    ) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, JointOptions)
        self.options = settings.options
        self.encoder = encoder
        self.model = encoder.model
        self.names = tuple(parts)
        for name, part in parts.items():
            self.add_module(f"part_{name}", part)
        self.register_buffer("skipped", torch.zeros(len(parts), dtype=torch.int64))
        self.full_size = frozenset(
            f"{name}/{view}" for name, part in parts.items() for view in part.full_size
        )
        self.opens_blocks = any(part.opens_blocks for part in parts.values())
        # What several parts hold is one entry of the state, under the first of its names.
        self._other_names = other_names(self)
        self.register_state_dict_post_hook(_drop_other_names)
        self.register_load_state_dict_pre_hook(_add_other_names)

    def part(self, name: str) -> Objective:
        found = self.get_submodule(f"part_{name}")
        assert isinstance(found, Objective)
        return found

    def parts(self) -> Iterator[tuple[str, Part, Objective]]:
        """Name, settings and objective of each, in a fixed order."""
        for name in self.names:
            yield name, self.options.parts[name], self.part(name)

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Those of each part, as "part/view", of its samples; none of a part with too few.

        rows: float32 [parts], samples of each, of all processes. spread: how those of each part lie
        in the processes, see `distributed.spread`.
        """
        self.options.check_sources(batch.names)
        found: dict[str, Any] = {}
        counts: list[int] = []
        lie: dict[str, Sequence[int]] = {}
        for name, part, objective in self.parts():
            needs = part.declared.needs
            rows, lie[name] = _rows(part, batch)
            counts.append(sum(lie[name]) if lie[name] != ALONE else len(rows))
            if counts[-1] < max(needs.least_batch, 1):
                continue
            own = batch.select(rows)
            first = batch.places[0] < self.settings.batch
            if needs.captions and first and not any(objective.captions(own)):
                raise SluiceError(
                    f"part {name}: none of its first {len(rows)} samples has a caption, and "
                    f"{part.objective} learns from captions",
                    "check the caption field of its sources, or choose another objective",
                )
            views = objective.views(own, device)
            found |= {f"{name}/{view}": value for view, value in views.items()}
        rows = torch.tensor(counts, dtype=torch.float32, device=device)
        return {**found, "rows": rows, "spread": lie}

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the parts' losses; each one's figures as "part/figure"."""
        terms: list[Tensor] = []
        figures: dict[str, Tensor] = {}
        for number, (name, part, objective) in enumerate(self.parts()):
            own = _of_part(name, views)
            if own:
                with spread(views["spread"][name]):
                    loss, told = objective(own, progress)
                    share = weight()
                terms.append(part.weight_at(progress) * share * loss)
                figures |= {f"{name}/{key}": share * value for key, value in told.items()}
                figures[f"{name}/loss"] = share * loss.detach()
            else:
                self.skipped[number] += 1
            figures[f"{name}/rows"] = views["rows"][number]
            figures[f"{name}/skipped"] = self.skipped[number].clone()
        if not terms:  # a loss that moves nothing
            terms = [0.0 * self.trained()[0].sum()]
        return torch.stack(terms).sum(), figures

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """Of what a part adds to the encoder: as it says; the encoder learns at the run's rate."""
        owner, _, rest = name.partition(".")
        if not owner.startswith("part_"):
            return 1.0
        return self.part(owner.removeprefix("part_")).lr_scale(rest, parameter)

    def before_update(self, progress: float) -> None:
        for _, _, objective in self.parts():  # they clip nothing: see part_settings
            objective.before_update(progress)
        super().before_update(progress)

    def after_update(self, progress: float) -> None:
        for _, _, objective in self.parts():
            objective.after_update(progress)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """The encoder as timm's; beside it the first part with text as open_clip's.

        What any further part leaves beside the encoder is in a folder of its name.
        """
        image, text = _kinds(self.options)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if image else OPENAI
        yield from self.encoder.files(mean, std)
        for name, part, objective in self.parts():
            for path, data in objective.files():
                if part.reads and name == text[0]:
                    yield path, data
                elif part.reads or path not in (CONFIG, WEIGHTS):
                    yield f"{name}/{path}", data


def _kinds(options: JointOptions) -> tuple[list[str], list[str]]:
    """The names of the parts that see images alone, and of those that also read."""
    text = [name for name, part in options.parts.items() if part.reads]
    return [name for name in options.parts if name not in text], text


def _rows(part: Part, batch: Batch) -> tuple[np.ndarray, Sequence[int]]:
    """Which samples of a batch are a part's here, ascending, and how its samples are spread."""
    taken = [number for number, names in enumerate(batch.names) if part.takes(names)]
    there = np.isin(batch.sources, taken) if part.sources else np.ones(len(batch.sources), np.bool_)
    if batch.dealt is None or batch.own is None or part.few(batch.dealt, batch.names):
        return np.flatnonzero(there), ALONE
    return np.flatnonzero(there & batch.own), part.counts(batch.dealt, batch.names)


def _of_part(name: str, views: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{name}/"
    return {key.removeprefix(start): views[key] for key in views if key.startswith(start)}


def other_names(module: nn.Module) -> dict[str, str]:
    """Further names of parameters and buffers that a module holds more than once: the first."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, value in chain(
        module.named_parameters(remove_duplicate=False),
        module.named_buffers(remove_duplicate=False),
    ):
        if first.setdefault(id(value), name) != name:
            found[name] = first[id(value)]
    return found


def _drop_other_names(module: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in module._other_names:
        state.pop(prefix + name, None)


def _add_other_names(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, first in module._other_names.items():
        if prefix + first in state:
            state[prefix + name] = state[prefix + first]


def part_settings(settings: TrainSettings, name: str, part: Part) -> TrainSettings:
    """Of a part as if it was a run of its own: with its own seed, and no clipping of its own."""
    model: Any = settings.model
    if part.reads:
        model = _two_towers(settings, part)
    return settings.model_copy(
        update={
            "objective": part.objective,
            "options": part.options,
            "model": model,
            "model_kwargs": {} if part.reads else settings.model_kwargs,
            "pretrained": None if part.reads else settings.pretrained,
            "seed": int(generator(settings.seed, "part", name).integers(2**31)),
            "clip_grad": None,
            "ema": None,
        }
    )


def _two_towers(settings: TrainSettings, part: Part) -> dict[str, Any]:
    """A part's open_clip model with the run's encoder as its image tower."""
    stated = part.model
    if isinstance(stated, str):
        stated = open_clip.get_model_config(stated)
        if stated is None:
            raise SluiceError(
                f"open_clip knows no model {part.model!r}",
                "use a name that open_clip.list_models() gives, or write its configuration out",
            )
    given = settings.model_kwargs.keys() - REBUILT
    if given:
        raise SluiceError(
            f"{part.objective} leaves an open_clip model, which cannot say model_kwargs "
            f"({', '.join(sorted(given))})",
            f"use a model of timm that is so by its name; {', '.join(REBUILT)} may be given",
        )
    tower = {
        "timm_model_name": settings.model,
        "timm_model_pretrained": False,
        "timm_pool": "",  # as the model itself pools
        "timm_proj": "linear",
    }
    return {**(stated or {}), "vision_cfg": tower}


def build(settings: TrainSettings) -> Joint:
    options = settings.options
    assert isinstance(options, JointOptions)
    if not options.parts:
        raise SluiceError(
            "a joint run has parts, and options.parts names none",
            "name them there: {pairs: {objective: clip, sources: [...]}, ...}",
        )
    sees_patches = all(part.declared.pooling == "patch_mean" for part in options.parts.values())
    pooling: Pooling = "patch_mean" if sees_patches else "class_token"
    encoder = replace(build_encoder(settings, [settings.image_size]), pooling=pooling)
    parts = {name: _build_part(settings, encoder, name) for name in options.parts}
    return Joint(settings, encoder, parts)


def _build_part(settings: TrainSettings, encoder: TimmEncoder, name: str) -> Objective:
    """Raises SluiceError, naming the part, where the encoder cannot carry it."""
    assert isinstance(settings.options, JointOptions)
    part = settings.options.parts[name]
    least = part.declared.needs.least_batch
    try:
        if settings.batch < least:
            raise SluiceError(
                f"{part.objective} compares samples, and batch is {settings.batch}",
                f"use a batch of which this part gets {least} or more",
            )
        with sharing(encoder):
            return objectives.build(part_settings(settings, name, part))
    except SluiceError as error:
        raise SluiceError(f"part {name}: {error.what}", error.way_out) from error
