"""DINO's options and defaults."""

from pydantic import Field

from pretrain.declare import TINY_VIT, Declared, Needs, Options, Range


class DinoOptions(Options):
    """DINO, Caron et al. 2021 (arXiv:2104.14294); sizes are for one small machine."""

    prototypes: int = Field(1024, gt=1, description="outputs of the head; 65536 as published")
    hidden: int = Field(256, gt=0, description="width of the head; 2048 as published")
    bottleneck: int = Field(64, gt=0, description="width before the last layer; 256 as published")
    global_scale: Range = Field((0.4, 1.0), description="area share of the two global crops")
    local_scale: Range = Field((0.05, 0.4), description="area share of the local crops")
    local_crops: int = Field(4, ge=0, description="local crops of each image; 8 as published")
    local_size: int | None = Field(None, gt=0, description="pixels; half the image size if unset")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")
    jitter: float = Field(0.4, ge=0, le=1, description="strength of the colour jitter (p 0.8)")
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: Range = Field((0.04, 0.07), description="first and last, linear between")
    temperature_warmup: float = Field(
        0.3, ge=0, le=1, description="share of the steps over which the teacher's temperature rises"
    )
    teacher_momentum: float = Field(0.996, ge=0, lt=1, description="at the start; 1 at the end")
    center_momentum: float = Field(0.9, ge=0, lt=1)
    freeze_last_layer: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of the steps in which "
        "the head's last layer rests; the first epoch as published",
    )
    weight_decay_end: float = Field(0.4, ge=0, description="the cosine schedule's last value")
    drop_path: float = Field(0.1, ge=0, lt=1, description="of the student")


DECLARED = Declared(
    options=DinoOptions,
    defaults={
        "model": "vit_tiny_patch16_224",
        "model_kwargs": TINY_VIT,
        "lr": 1e-3,
        "weight_decay": 0.04,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "clip_grad": 3.0,
    },
    paper="Caron et al. 2021, arXiv:2104.14294",
    needs=Needs(least_batch=2),
    keeps_average=True,
    whole="its centre is the mean of the whole batch",
)
