"""What an objective declares of itself, read without importing PyTorch.

`pretrain/options/<name>.py` holds one `DECLARED` each; `pretrain.options` finds them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

Range = tuple[float, float]
Counts = Sequence[Sequence[int]]
Library = Literal["open_clip", "timm"]
Pooling = Literal["class_token", "patch_mean"]
Divides = Literal["mean", "features"]

# A CLIP of 3.9 million parameters (3.2 of them token embeddings) that learns on two cores.
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 64, "image_size": 64},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
TINY_VIT: dict[str, Any] = {"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3}
# AdamW on that transformer, as most objectives of images train it.
VIT_DEFAULTS: dict[str, Any] = {
    "model": "vit_tiny_patch16_224",
    "model_kwargs": TINY_VIT,
    "lr": 1e-3,
    "weight_decay": 0.05,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
}


class Settings(BaseModel):
    """Settings that are part of a run's digest.

    `LATER` names the fields that were added when runs had already been made without them. At its
    default such a field changes nothing, and is left out of the digest: earlier runs keep theirs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    LATER: ClassVar[frozenset[str]] = frozenset()

    def unsaid(self) -> set[str]:
        """The later fields that stand at their default."""
        fields = type(self).model_fields
        return {name for name in self.LATER if getattr(self, name) == fields[name].default}


class Options(Settings):
    """Base of every objective's own options.

    `WEIGHTS` names the fields that say where weights are, a file or a run's folder: in the digest
    of a run they are what lies there, not the path.
    """

    WEIGHTS: ClassVar[frozenset[str]] = frozenset()

    def reads(self) -> frozenset[str]:
        """The names of the score columns it reads (`TrainSettings.columns`); none by default."""
        return frozenset()

    def check_columns(self, name: str, url: str, made: Mapping[str, Any]) -> None:
        """SluiceError where the score columns at `url`, read as `name`, are not for these options.

        made: what their manifest says of the whole (`extra`). Asked before a run starts.
        """
        return None

    def unusable(self, fields: Mapping[str, Any], names: Collection[str] = ()) -> str | None:
        """Why a sample with these fields (`Batch.meta`) cannot be learnt from; None where it can.

        names: those of its source (`Stream.names`). Asked with `Needs(meta=True)`: such a sample
        is skipped, counted and named.
        """
        return None

    def common(self, dealt: Counts, known: Sequence[Collection[str]]) -> list[bool]:
        """Of which sources each of several processes is to have all samples of a batch.

        dealt: [processes, sources], samples of the batch that are each one's own; known: the names
        that each source goes by.
        """
        return [False] * len(known)

    def identity(
        self, network: Callable[[str], Any], sources: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """These options as JSON, as the digest of a run has them.

        network: gives what lies where a field of `WEIGHTS` says. sources: digest of each source by
        its name, once they are known.
        """
        stated = self.model_dump(mode="json", exclude=self.unsaid())
        for name in sorted(self.WEIGHTS & stated.keys()):
            if stated[name] is not None:
                stated[name] = network(stated[name])
        return stated

    def undivided(self) -> str | None:
        """Why a step with these options cannot be taken in micro-batches; None where it can.

        Asked where `Declared.divides` says that the objective can.
        """
        return None


@dataclass(frozen=True)
class Needs:
    """What an objective takes.

    model: who builds its network; an open_clip model has two towers, a timm model sees images.
    least_batch: samples of a step at least, 2 where samples are compared with each other.
    captions: a run whose samples have none is refused.
    meta: the samples' own JSON fields are read with them (`Batch.meta`): labels and the like.
    drops_patches: the network must be able to work on some of its patches alone.
    """

    model: Library = "timm"
    least_batch: int = 1
    captions: bool = False
    meta: bool = False
    drops_patches: bool = False


@dataclass(frozen=True)
class Declared:
    """An objective, but for its code.

    defaults: of fields of TrainSettings, where a recipe does not give them; `model`, `lr`,
    `weight_decay`, `betas` and `eps` have no other.
    paper: its publication. pooling: which vector of its encoder stands for an image, where the
    network has tokens. keeps_average: the encoder it leaves is an average of weights already.
    probe: options that must be given before anything can be built, as `pretrain.probe` gives them;
    of those that name weights the value does not matter.
    divides: how a step is taken in micro-batches. mean: its loss is a mean over samples, and so are
    its gradients; features: samples are compared by what `Objective.features` gives of each. None:
    it needs the whole batch at once, for the reason that `whole` gives.
    """

    options: type[Options]
    defaults: Mapping[str, Any]
    paper: str
    needs: Needs = Needs()
    pooling: Pooling = "class_token"
    keeps_average: bool = False
    probe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    divides: Divides | None = None
    whole: str = "it is not declared that its loss is a mean over samples"
