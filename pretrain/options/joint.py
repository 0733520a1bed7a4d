"""Options and defaults of joint training: several objectives, one image encoder."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field, SerializeAsAny, field_validator, model_validator

from infra.errors import SluiceError
from pretrain import options as registry
from pretrain.declare import TINY_VIT, Counts, Declared, Needs, Options, Settings

NAME = re.compile("[a-z][a-z0-9_]*")


class Part(Settings):
    """An objective that learns from some of the sources, and the weight of its loss.

    Of the run's settings those of the encoder, the optimizer and all its schedules hold for all
    parts: an objective's own schedule of the weight decay does not.
    """

    objective: str = Field(description="a file's name in pretrain/options")
    sources: tuple[str, ...] = Field(
        (), description="names of the sources it learns from, as the run has them; empty: all"
    )
    weight: float = Field(1.0, ge=0, description="of its loss, from the end of the ramp on")
    first_weight: float = Field(0.0, ge=0, description="where a ramp starts")
    ramp: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the run over which its weight goes from first_weight to weight in a "
        "line; 0: it is constant",
    )
    model: str | dict[str, Any] | None = Field(
        None,
        description="of a part with text: an open_clip name or model configuration, of which the "
        "text tower and embed_dim are taken; its image tower is the run's encoder",
    )
    options: SerializeAsAny[Options]

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        name = value.get("objective")
        declared = registry.declared(name)
        if declared.options is JointOptions:
            raise ValueError("a part of a joint run is no joint run; name its parts one by one")
        given = value.get("options") or {}
        if isinstance(given, BaseModel):
            return value
        # The encoder is one network, with one rate of drop path.
        own = {"drop_path": 0.0} if "drop_path" in declared.options.model_fields else {}
        model = declared.defaults["model"] if declared.needs.model == "open_clip" else None
        return {
            **value,
            "model": value.get("model") or model,
            "options": registry.read(str(name), {**own, **given}),
        }

    @model_validator(mode="after")
    def _is_of_its_objective(self) -> "Part":
        if not isinstance(self.options, self.declared.options):
            raise ValueError(f"options are not those of objective {self.objective}")
        if self.model is not None and not self.reads:
            raise ValueError(
                f"{self.objective} trains the run's encoder alone; leave model out of its part"
            )
        if getattr(self.options, "drop_path", 0.0):
            raise ValueError(
                "drop_path is that of the encoder, which all parts share: give the run "
                "model_kwargs: {drop_path_rate: ...}"
            )
        if not max(self.weight, self.first_weight if self.ramp else 0.0):
            raise ValueError("its weight is never above 0; leave the part out")
        return self

    @property
    def declared(self) -> Declared:
        return registry.declared(self.objective)

    @property
    def reads(self) -> bool:
        """Whether it has a text tower."""
        return self.declared.needs.model == "open_clip"

    def takes(self, names: Collection[str]) -> bool:
        """Whether it learns from the source that goes by these names."""
        return not self.sources or not set(self.sources).isdisjoint(names)

    def counts(self, dealt: Counts, known: Sequence[Collection[str]]) -> list[int]:
        """Samples for it in each process; dealt: [processes, sources], all of a batch."""
        taken = [number for number, names in enumerate(known) if self.takes(names)]
        return [sum(row[number] for number in taken) for row in dealt]

    def few(self, dealt: Counts, known: Sequence[Collection[str]]) -> bool:
        """Whether some process has fewer samples of its own than this objective can learn from."""
        return min(self.counts(dealt, known)) < max(self.declared.needs.least_batch, 1)

    def weight_at(self, progress: float) -> float:
        """Of its loss, by the share of the run that is done."""
        if not self.ramp:
            return self.weight
        done = min(progress / self.ramp, 1.0)
        return self.first_weight + (self.weight - self.first_weight) * done


class JointOptions(Options):
    """Several objectives at once, each on its own data: Su et al. 2022 (arXiv:2211.09807)."""

    parts: dict[str, Part] = Field(
        default_factory=dict[str, Part], description="by a name that its figures bear"
    )

    @field_validator("parts")
    @classmethod
    def _ordered(cls, value: dict[str, Part]) -> dict[str, Part]:
        for name in value:
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a part: use a-z, 0-9 and _")
        return dict(sorted(value.items()))  # sums are rounded by order, and a digest knows none

    def reads(self) -> frozenset[str]:
        return frozenset[str]().union(*(part.options.reads() for part in self.parts.values()))

    def check_columns(self, name: str, url: str, made: Mapping[str, Any]) -> None:
        for part in self.parts.values():
            if name in part.options.reads():
                part.options.check_columns(name, url, made)

    def unusable(self, fields: Mapping[str, Any], names: Collection[str] = ()) -> str | None:
        """A sample is of use if it is to each part that learns from its source."""
        for name, part in self.parts.items():
            if part.takes(names) and part.declared.needs.meta:
                reason = part.options.unusable(fields, names)
                if reason is not None:
                    return f"part {name}: {reason}"
        return None

    def common(self, dealt: Counts, known: Sequence[Collection[str]]) -> list[bool]:
        """Those of parts with few."""
        scarce = [part for part in self.parts.values() if part.few(dealt, known)]
        return [any(part.takes(names) for part in scarce) for names in known]

    def check_sources(self, known: Sequence[Collection[str]]) -> None:
        """SluiceError unless each part has its sources, and each source a part.

        known: the names that each source of the run goes by.
        """
        shown = [min(names, key=len) for names in known]
        for name, part in self.parts.items():
            strange = [each for each in part.sources if not any(each in names for names in known)]
            if strange:
                raise SluiceError(
                    f"part {name} learns from {', '.join(strange)}, and the sources of this run "
                    f"are {', '.join(shown) or 'not named'}",
                    f"mend options.parts.{name}.sources, or add the source",
                )
        for names, one in zip(known, shown, strict=True):
            if not any(part.takes(names) for part in self.parts.values()):
                raise SluiceError(
                    f"no part learns from the source {one}",
                    "name it among the sources of a part, or take it out of the mix",
                )

    def identity(
        self, network: Callable[[str], Any], sources: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        if sources is not None:
            self.check_sources([{name, digest} for name, digest in sources.items()])
        stated = super().identity(network, sources)
        for name, part in self.parts.items():
            own = part.model_dump(mode="json", exclude=part.unsaid())
            if sources is not None:
                own["sources"] = sorted({sources.get(each, each) for each in part.sources})
            stated["parts"][name] = own | {"options": part.options.identity(network, sources)}
        return stated


DECLARED = Declared(
    options=JointOptions,
    defaults={
        "model": "vit_tiny_patch16_224",
        "model_kwargs": TINY_VIT,
        "lr": 1e-3,
        "weight_decay": 0.05,
        "betas": (0.9, 0.98),
        "eps": 1e-8,
    },
    paper="Su et al. 2022, arXiv:2211.09807",
    needs=Needs(meta=True),
    whole="each of its parts compares samples in its own way",
    probe={"parts": {"images": {"objective": "rotnet"}}},
)
