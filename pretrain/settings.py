"""Settings of a training run. Light: a recipe is read and checked without importing PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, SerializeAsAny, model_validator

from pretrain import capabilities
from pretrain import options as registry
from pretrain.declare import Declared, Options, Range, Settings
from pretrain.evaluate_settings import OnlineSettings
from pretrain.stages import Stage, fault

# Defaults of an objective that go with another one, and leave with it.
FOLLOW = {"optimizer": ("nesterov",), "schedule": ("milestones", "gamma", "cooldown")}

# What cannot change a single byte of a run, and so is no part of its digest. Of several workers
# sums are rounded in another order; the samples and all random numbers of them are the same.
EXECUTION = frozenset(
    {
        "cache_mib",
        "checkpoint_every",
        "evaluate",
        "evaluate_every",
        "keep_checkpoints",
        "loggers",
        "max_failures",
        "sharding",
        "workers",
    }
)


class TrainSettings(Settings):
    """One training run. What is left out is filled in by the objective's defaults.

    A run sees `steps * batch` samples. `options` are the objective's own settings.
    """

    LATER: ClassVar[frozenset[str]] = frozenset(
        {
            "schedule",
            "cooldown",
            "milestones",
            "gamma",
            "optimizer",
            "momentum",
            "nesterov",
            "no_decay",
            "layer_decay",
            "ema",
            "precision",
            "compile",
            "grad_checkpointing",
            "micro_batch",
            "curriculum",
            "columns",
        }
    )

    objective: str = Field(description="a file's name in pretrain/options")
    model: str | dict[str, Any] = Field(
        description="a timm name; clip and its kin: an open_clip name or model configuration"
    )
    model_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="timm models: arguments of timm.create_model"
    )
    pretrained: str | None = Field(
        None,
        description="start from these weights: an open_clip tag (open_clip models), a run's "
        "folder, or a weight file; unset: from random weights",
    )
    image_size: int = Field(64, gt=0, description="pixels of a side the encoder sees")
    batch: int = Field(128, gt=0, description="samples of one step")
    steps: int = Field(300, gt=0)
    lr: float = Field(gt=0, description="peak learning rate of the optimizer")
    min_lr: float = Field(0.0, ge=0, description="at the end of the run, where the rate falls")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps with a rising rate")
    schedule: Literal["cosine", "constant", "steps"] = Field(
        "cosine", description="of the learning rate after the warm-up"
    )
    cooldown: float = Field(
        0.0,
        ge=0,
        le=1,
        description="constant: share of the steps, the last, over which the rate falls in a line "
        "to min_lr; 0.2 is usual (arXiv:2405.18392)",
    )
    milestones: tuple[float, ...] = Field(
        (), description="steps: shares of the run after each of which the rate falls by gamma"
    )
    gamma: float = Field(
        0.1, gt=0, lt=1, description="steps: factor of the rate at each milestone, down to min_lr"
    )
    optimizer: Literal["adamw", "lamb", "lars", "sgd"] = Field(
        "adamw",
        description="AdamW (arXiv:1711.05101), LAMB (arXiv:1904.00962), LARS (arXiv:1708.03888), "
        "or stochastic gradient descent",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of lars and sgd")
    nesterov: bool = Field(False, description="Nesterov's momentum, of sgd and lars")
    weight_decay: float = Field(ge=0, description="of weights with two or more dimensions")
    no_decay: Literal["vectors", "declared"] = Field(
        "vectors",
        description="what weight decay spares: vectors and scalars; or also what the network "
        "declares, as positions and tokens",
    )
    layer_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="factor of the learning rate from each layer of the encoder to the one below, "
        "as for fine-tuning; unset: one rate for all",
    )
    betas: Range = Field(description="of adamw and lamb")
    eps: float = Field(gt=0, description="of adamw, lamb and lars")
    clip_grad: float | None = Field(
        None,
        gt=0,
        description="gradient norm at most, of all parameters together; of each where an "
        "objective was published so (dino)",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="keep a moving average of the weights and leave that as the encoder: the "
        "share kept at each step, less in the first; 0.9999 for long runs",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the forward pass; weights, losses and updates are float32"
    )
    compile: bool = Field(
        False, description="compile the forward pass: a minute or more at the start, faster steps"
    )
    grad_checkpointing: bool = Field(
        False,
        description="keep no activations within blocks, compute them again: less memory, a "
        "quarter more time. Batch norms then see each batch twice",
    )
    micro_batch: int | None = Field(
        None,
        gt=0,
        description="samples whose activations a process holds at a time: less memory, and for "
        "objectives that compare samples a third more time (GradCache, arXiv:2101.06983); unset: "
        "all of a step",
    )
    curriculum: Literal["efficienttrain"] | tuple[Stage, ...] | None = Field(
        None,
        description="stages of image size and of the strength of augmentation; efficienttrain: the "
        "published ones (arXiv:2211.09703), for the first three fifths 5/7 of the size",
    )
    columns: dict[str, str] = Field(
        {},
        description="score columns that the options name, and the folder NAME-DIGEST of each in "
        "`scores/` of the sources, or of the versions they were cut from; a recipe fills it in",
    )
    seed: int = 0
    threads: int = Field(2, gt=0, description="of one process; another count may round differently")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where one is")
    shuffle: int = Field(
        8192,
        gt=0,
        description="samples that are shuffled among each other, and "
        "whose compressed bytes are held in memory",
    )
    canvas: int | None = Field(
        None,
        gt=0,
        description="pixels of the square a sample is decoded to, before random crops; "
        "1.5 times the image size if unset",
    )
    log_every: int = Field(10, gt=0, description="steps between two lines of metrics.jsonl")
    cache_mib: int = Field(256, ge=0, description="MiB of decoded samples kept between epochs")
    evaluate_every: int = Field(
        0,
        ge=0,
        description="steps between two times that the encoder is asked what it has learnt, and "
        "before the first step and after the last; 0: never",
    )
    evaluate: OnlineSettings = Field(
        OnlineSettings.model_validate({}), description="what it is asked then, and on what"
    )
    checkpoint_every: int = Field(100, gt=0, description="steps between two checkpoints")
    max_failures: int = Field(2, ge=0, description="times a lost worker is replaced")
    workers: int = Field(
        1,
        gt=0,
        description="processes of Ray Train that share every batch, each with a GPU where there "
        "are some; fewer while the cluster has no room for more",
    )
    sharding: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="several workers: each has the whole model, or a piece of it (FSDP2), which "
        "takes less memory and more messages",
    )
    keep_checkpoints: int = Field(
        1,
        gt=0,
        description="the last ones; above 1 also the one of the lowest loss, and all of them stay "
        "in the run's folder `checkpoints`",
    )
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (),
        description="where the metrics go besides metrics.jsonl and the terminal, into files only; "
        "each needs its package",
    )
    options: SerializeAsAny[Options]

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        objective = value.get("objective")
        defaults = dict(registry.declared(objective).defaults)
        if "model" in value:
            defaults.pop("model_kwargs", None)
        for name, followers in FOLLOW.items():
            if value.get(name) not in (None, defaults.get(name)):
                for follower in followers:
                    defaults.pop(follower, None)
        filled = {
            **defaults,
            **{
                name: entry
                for name, entry in value.items()
                if entry is not None or name not in defaults
            },
        }
        options = filled.get("options") or {}
        if not isinstance(options, BaseModel):
            filled["options"] = registry.read(str(objective), options)
        return filled

    @model_validator(mode="after")
    def _fits_the_objective(self) -> "TrainSettings":
        declared, needs = self.declared, self.declared.needs
        if not isinstance(self.options, declared.options):
            raise ValueError(f"options are not those of objective {self.objective}")
        if self.batch < needs.least_batch:
            raise ValueError(
                f"batch is {self.batch}; {self.objective} compares samples within a "
                f"batch, so it needs at least {needs.least_batch}"
            )
        if idle := sorted(self.columns.keys() - self.options.reads()):
            raise ValueError(f"columns has {idle[0]!r}, which no option of {self.objective} reads")
        if needs.model == "open_clip" and self.model_kwargs:
            raise ValueError(
                "model_kwargs are for timm models; put the open_clip configuration into `model`"
            )
        if needs.model == "timm" and not isinstance(self.model, str):
            raise ValueError(f"model of {self.objective} is the name of a timm model")
        if needs.model == "timm" and not self.model_kwargs:
            reason = capabilities.refused(str(self.model), self.objective, self.image_size)
            if reason:
                raise ValueError(f"{reason}; pretrain/README.md shows which models can")
        if self.ema is not None and declared.keeps_average:
            raise ValueError(
                f"{self.objective} leaves an average of weights of its own; leave ema out"
            )
        return self

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "TrainSettings":
        patch = self.patch_size
        if patch and self.image_size % patch:
            raise ValueError(
                f"image_size {self.image_size} is not divisible by the model's patch "
                f"size {patch}; use {self.image_size // patch * patch or patch}"
            )
        if self.cooldown and self.schedule != "constant":
            raise ValueError(
                f"cooldown is {self.cooldown}, but a {self.schedule} falls by itself; set "
                "schedule to constant, or leave cooldown out"
            )
        self._check_milestones()
        if self.cooldown + self.warmup > 1:
            raise ValueError(f"warmup {self.warmup} and cooldown {self.cooldown} exceed the run")
        if self.nesterov and (self.optimizer not in ("sgd", "lars") or not self.momentum):
            raise ValueError("nesterov is of sgd and lars, with a momentum above 0")
        return self

    @model_validator(mode="after")
    def _can_be_cut(self) -> "TrainSettings":
        if self.micro_batch is not None:
            divides = self.declared.divides
            reason = self.options.undivided() if divides else self.declared.whole
            if reason:
                raise ValueError(
                    f"micro_batch is set, but {self.objective} needs the whole batch: {reason}; "
                    "leave it out, and set grad_checkpointing or a smaller batch instead"
                )
            if self.compile and divides == "features":
                raise ValueError(
                    f"micro_batch of {self.objective} cannot be compiled; leave one of them out"
                )
        if isinstance(self.curriculum, tuple):
            wrong = fault(self.curriculum, self.image_size, self.patch_size)
            if wrong:
                raise ValueError(wrong)
        if self.curriculum is not None and self.compile:
            raise ValueError(
                "compile is of one image size, and curriculum has several; leave one of them out"
            )
        if self.sharding == "fsdp" and self.optimizer not in ("adamw", "sgd"):
            raise ValueError(
                f"{self.optimizer} needs the norm of whole weights, and fsdp cuts them into "
                "pieces; use adamw or sgd, or sharding ddp"
            )
        return self

    def _check_milestones(self) -> None:
        marks = list(self.milestones)
        if (self.schedule == "steps") != bool(marks):
            raise ValueError(
                f"schedule is {self.schedule} and milestones are {marks}: schedule steps needs "
                "milestones, such as [0.3, 0.6, 0.8], and no other takes them"
            )
        if marks and (marks != sorted(set(marks)) or marks[0] <= 0 or marks[-1] >= 1):
            raise ValueError(f"milestones are {marks}: give rising shares of the run, within 0..1")

    @property
    def declared(self) -> Declared:
        """What the objective says of itself."""
        return registry.declared(self.objective)

    @property
    def patch_size(self) -> int | None:
        """The patch size the settings state; None where only the model knows."""
        source = self.model_kwargs
        if isinstance(self.model, dict):
            source = self.model.get("vision_cfg", {})
        patch = source.get("patch_size")
        return patch if isinstance(patch, int) else None

    @property
    def canvas_size(self) -> int:
        return self.canvas or self.image_size * 3 // 2

    def identity(
        self,
        network: Callable[[str], Any] = str,
        sources: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """All settings that shape the result, as JSON: the part of the run's digest they make.

        network, sources: see `Options.identity`.
        """
        stated = self.model_dump(mode="json", exclude=set(EXECUTION | self.unsaid()))
        return stated | {"options": self.options.identity(network, sources)}
