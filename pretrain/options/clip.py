"""CLIP's options and defaults."""

from typing import ClassVar, Literal

from pydantic import Field

from pretrain.declare import TINY_CLIP, Declared, Needs
from pretrain.pair_options import NestedOptions


class ClipOptions(NestedOptions):
    """CLIP, Radford et al. 2021 (arXiv:2103.00020)."""

    LATER: ClassVar[frozenset[str]] = NestedOptions.LATER | {"negatives"}

    same_caption: Literal["negative", "positive"] = Field(
        "negative",
        description="a pair of the batch with the very same caption: a negative, as "
        "published, or one more positive (UniCL, arXiv:2204.03610); the same loss unless "
        "drop_tokens makes the captions differ",
    )
    negatives: Literal["global", "local_exact"] = Field(
        "global",
        description="which rows of the similarities a process takes where several share a batch: "
        "all of them, or its own alone, which takes less memory. Gradients are the same",
    )


DECLARED = Declared(
    options=ClipOptions,
    defaults={
        "model": TINY_CLIP,
        "lr": 1e-3,
        "weight_decay": 0.2,
        "betas": (0.9, 0.98),
        "eps": 1e-6,
    },
    paper="Radford et al. 2021, arXiv:2103.00020",
    needs=Needs(model="open_clip", least_batch=2, captions=True),
    divides="features",
)
