"""DINOv2's options and defaults."""

from typing import Literal

from pydantic import Field, field_validator

from pretrain.declare import TINY_VIT, Declared, Needs, Range
from pretrain.options.dino import DinoOptions


class DinoV2Options(DinoOptions):
    """DINOv2, Oquab et al. 2023 (arXiv:2304.07193); sizes are for one small machine."""

    prototypes: int = Field(
        256,
        gt=1,
        description="outputs of the head; 65536 to 131072 as published, with thousands of images "
        "a step. Sinkhorn shares them evenly: many more than crops of a step, and all targets "
        "come near to uniform (see `entropy`)",
    )
    hidden: int = Field(256, gt=0, description="width of the head; 2048 as published")
    bottleneck: int = Field(
        64, gt=0, description="width before the last layer; 256 or 384 as published"
    )
    learn_gain: bool = Field(
        True, description="each output of the head learns its own length, as published; else 1"
    )
    global_scale: Range = Field((0.32, 1.0), description="area share of the two global crops")
    local_scale: Range = Field((0.05, 0.32), description="area share of the local crops")
    teacher_momentum: float = Field(
        0.992, ge=0, lt=1, description="at the start; 1 at the end. 0.994 in the long runs"
    )
    drop_path: float = Field(0.1, ge=0, lt=1, description="of the student; 0.3 as published")
    centring: Literal["sinkhorn", "mean"] = Field(
        "sinkhorn",
        description="of the teacher's outputs: three rounds of Sinkhorn-Knopp, as in the "
        "published long runs, or less their running mean, as in DINO",
    )
    dino_weight: float = Field(1.0, ge=0, description="of the loss over class tokens")
    ibot_weight: float = Field(1.0, ge=0, description="of the loss over hidden patches")
    koleo_weight: float = Field(0.1, ge=0, description="of KoLeo, summed over the two global crops")
    separate_head: bool = Field(
        False,
        description="patches have a head of their own, as in the published long runs; else they "
        "share that of the class tokens",
    )
    mask_share: float = Field(
        0.5, gt=0, le=1, description="share of the global crops in which patches are hidden"
    )
    mask_ratio: Range = Field(
        (0.1, 0.5), description="share of hidden patches, spread evenly over these crops"
    )
    patch_embed_lr: float = Field(
        0.2, ge=0, description="factor of the learning rate of the patch embedding"
    )

    @field_validator("mask_ratio")
    @classmethod
    def _within_an_image(cls, value: Range) -> Range:
        if not 0 <= value[0] <= value[1] <= 1 or not value[1]:
            raise ValueError(f"{value} are not two rising shares between 0 and 1")
        return value


# Registers (arXiv:2309.16588) take up what the network would else write into patches.
TINY_REGISTER_VIT = {**TINY_VIT, "reg_tokens": 4}

DECLARED = Declared(
    options=DinoV2Options,
    defaults={
        "model": "vit_tiny_patch16_224",
        "model_kwargs": TINY_REGISTER_VIT,
        "lr": 1e-3,  # 4e-3 at a batch of 1024, by the root of the batch
        "weight_decay": 0.04,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "clip_grad": 3.0,
        "layer_decay": 0.9,
    },
    paper="Oquab et al. 2023, arXiv:2304.07193",
    needs=Needs(least_batch=2),
    keeps_average=True,
    whole="its centre and its spread are those of the whole batch",
)
