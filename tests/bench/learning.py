"""What is learnt on CIFAR-10 without labels, and whether fractals help where labels are few.

--machine cpu: Barlow Twins on a small network for some minutes; the k-NN accuracy as it trains,
against raw pixels and the same network untrained. Kept as results/learning.json.
--machine gpu: ResNet-18 by DINO and by Barlow Twins for 200 epochs, the settings of lightly's
benchmark of CIFAR-10 as far as ours have them: k-NN of its k and temperature, against its figures.
Kept as results/learning_gpu.json. Where a GPU is lent for minutes, one --objective at a time, the
figures --to a folder that comes back, and here --keep FILE: one beside the other.
--machine fractals: fine-tuning on few images, from scratch and from a network that learnt to tell
fractals apart, the same steps over several seeds. Kept as results/learning_fractals.json.
--machine scenes: the same with a tenth of the labels, from a network that learnt which fractals an
image shows, one to five at once: the multi-instance task, on images that are drawn as they are
needed and never come twice. Some twenty minutes. Kept as results/learning_scenes.json.

CIFAR-10 as Parquet, train.parquet and test.parquet with columns jpg and label, is looked for at
--data or $CIFAR10. Results are kept where no --steps are given.
Run: python tests/bench/learning.py --machine cpu --data FOLDER [--store FOLDER] [--steps 20]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from record import keep, merged
from safetensors.torch import load_file
from timm.models import register_model
from timm.models.resnet import ResNet, resnet18
from torch import nn

from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.settings import SourceSettings
from curation.synthetic.fractals import fractal_items, fractals_draft, fractals_work
from curation.synthetic.settings import FractalSettings
from infra import artifacts
from infra.artifacts import Artifact
from infra.digests import generator
from infra.progress import SilentDisplay
from pretrain import encoders
from pretrain.classifier import CLASSES, HEAD
from pretrain.data import Source
from pretrain.evaluate import sources, tasks
from pretrain.evaluate.intervals import over_seeds
from pretrain.evaluate.labelled import encode
from pretrain.evaluate_settings import EvaluateSettings
from pretrain.online import ASKED
from pretrain.run import run_draft, train
from pretrain.settings import TrainSettings
from pretrain.told_classes import with_classes

PACKAGES = ("torch", "timm")
BANK, ASKED_OF = 5_000, 2_500  # images of the k-NN bank and of the test on a CPU
IMAGES, TRIED = 50_000, 200  # of CIFAR-10; images that are asked about where steps are given
ASKED_ON_GPU = 2  # times a run is asked there: each takes half a minute of processors
POINTS = 5  # times a run on a CPU is asked, beside before its first step
FEW, TENTH, SEEDS, CONFIDENCE = 2_000, 5_000, 3, 0.95  # labelled images of the fine-tuning
TARGETS = {"dino": 0.840, "barlow": 0.842}


@register_model
def resnet18_small_images(pretrained: bool = False, stride: int = 1, **kwargs: Any) -> ResNet:
    """timm's ResNet-18 as it is used on 32 pixels: a first convolution of 3 x 3, no pooling.

    kwargs: timm's. No arguments of timm express this, so the network is registered there.
    """
    model = resnet18(pretrained, **kwargs)
    model.conv1 = nn.Conv2d(3, model.bn1.num_features, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


# One block of each width instead of two, a quarter as wide, at half the resolution: for a CPU.
SMALL: dict[str, Any] = {
    "model": "resnet18_small_images",
    "model_kwargs": {
        "layers": [1, 1, 1, 1],
        "channels": [16, 32, 64, 128], "stem_type": "deep", "stem_width": 8, "stride": 2
    },
    "image_size": 32, "canvas": 32, "threads": 1, "device": "cpu", "log_every": 10,
}  # fmt: skip
CPU: dict[str, Any] = {
    **SMALL,
    "objective": "barlow", "batch": 256, "steps": 1_000, "optimizer": "adamw", "lr": 2e-3,
    "min_lr": 0.0, "weight_decay": 1e-4,
    "options": {"crop_scale": (0.2, 1.0), "blur": (0.0, 0.0), "solarize": (0.0, 0.0)},
}  # fmt: skip
# Published: batches of 128 at a rate of 0.06, batch norms in DINO's head and two layers in both
# heads, where ours have three; a teacher's momentum of 0.99 throughout, where ours rises. Batches
# four times as large at four times the rate, so that the GPU does not wait for its next kernel.
GPU: dict[str, Any] = {
    "model": "resnet18_small_images", "image_size": 32, "canvas": 32, "device": "cuda",
    "batch": 512, "optimizer": "sgd", "momentum": 0.9, "lr": 0.24, "warmup": 0.02, "min_lr": 0.0,
    "weight_decay": 5e-4, "threads": 8, "log_every": 100, "checkpoint_every": 2_000,
    "precision": "bfloat16", "cache_mib": 512,
}  # fmt: skip
GPU_OPTIONS: dict[str, dict[str, Any]] = {
    "dino": {
        "prototypes": 2048, "hidden": 2048, "bottleneck": 256, "local_crops": 0,
        "global_scale": (0.4, 1.0), "teacher_momentum": 0.99, "drop_path": 0.0,
        "weight_decay_end": 5e-4, "teacher_temperature": (0.04, 0.04), "freeze_last_layer": 0.0,
    },
    "barlow": {"projector": 2048, "blur": (0.0, 0.0), "solarize": (0.0, 0.0)},
}  # fmt: skip
GPU_ASKED: dict[str, Any] = {"neighbours": 200, "temperature": 0.1}
FRACTALS = FractalSettings(systems=25, instances=400, size=32, points=5_000, background="black")
LEARN_FRACTALS: dict[str, Any] = {
    **SMALL,
    "objective": "supervised", "batch": 128, "steps": 400, "lr": 2e-3, "weight_decay": 0.05,
    "options": {
        "label": "system", "classes": [str(each) for each in range(FRACTALS.systems)],
        "crop_scale": (1.0, 1.0), "jitter": 0.0,
    },
}  # fmt: skip
FINE_TUNE: dict[str, Any] = {
    **SMALL,
    "objective": "supervised", "batch": 128, "steps": 300, "lr": 1e-3, "weight_decay": 0.05,
    "options": {"label": "concept", "crop_scale": (0.5, 1.0), "jitter": 0.2},
}  # fmt: skip
# Objects large enough, and systems alike enough over instances, to be told apart on 32 pixels
# within some hundred steps: with 100 systems that zoom, turn and jitter nothing is learnt in 250.
SCENES = FractalSettings(
    systems=25, instances=10_000, size=32, points=5_000, objects=(1, 5), object_size=(0.45, 0.9),
    background="black", zoom=False, flips=False, jitter=False,
)  # fmt: skip
LEARN_SCENES: dict[str, Any] = {
    **SMALL,
    "objective": "multi_instance", "batch": 128, "steps": 2_400, "optimizer": "adamw", "lr": 4e-3,
    "weight_decay": 0.05,
}  # fmt: skip


@dataclass(frozen=True)
class Transfer:
    """Fractals, how they are learnt from, and what is fine-tuned: images, steps."""

    fractals: FractalSettings
    learn: dict[str, Any]
    images: int
    steps: int


TOLD_APART = Transfer(FRACTALS, LEARN_FRACTALS, FEW, FINE_TUNE["steps"])
MULTI_INSTANCE = Transfer(SCENES, LEARN_SCENES, TENTH, 400)


def some(path: Path, count: int, *key: Any) -> pa.Table:
    """So many random images of a Parquet file of CIFAR-10 as ingest reads them; all where fewer."""
    table = pq.read_table(path, columns=["jpg", "label"])
    chosen = np.sort(generator("cifar", path.stem, *key).permutation(table.num_rows)[:count])
    rows = table.take(pa.array(chosen)).combine_chunks()
    return pa.table({"jpg": rows["jpg"], "concept": rows["label"]})


def dataset(store: Path, name: str, images: pa.Table) -> Artifact:
    """A dataset version of these images."""
    path = store / f"{name}.parquet"
    pq.write_table(images, path)
    given = [SourceSettings(parquet=str(path), image="jpg", caption="")]
    draft = ingest_draft(str(store), name, given, sources.content(str(path)))
    if (found := artifacts.load(draft.url)) is not None:
        return found
    for item in ingest_items(given):
        part = IngestWork(draft.url)(item.value, [item.name])[item.name]
        artifacts.record_part(draft.url, part, 0, 0)
    return artifacts.commit(draft.url, draft.spec)


def fractals(store: Path, settings: FractalSettings) -> Artifact:
    """The drawn version of these fractals."""
    draft = fractals_draft(str(store), settings)
    if (found := artifacts.load(draft.url)) is not None:
        return found
    for item in fractal_items(settings):
        part = fractals_work(draft.url, settings)(item.value, [item.name])[item.name]
        artifacts.record_part(draft.url, part, 0, 0)
    return artifacts.commit(draft.url, draft.spec)


@dataclass
class Watch(SilentDisplay):
    """Notes when each step was done, and tells it now and then."""

    seconds: dict[int, float] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    def stage(self, name: str, total: int, unit: str = "shards") -> "Watch":
        return self

    def advance(self, steps: int = 1, note: str = "", *_: object, **__: object) -> None:
        step = max(self.seconds, default=0) + steps
        self.seconds[step] = time.monotonic() - self.begun
        if step % 50 == 0:
            print(f"step {step}, {self.seconds[step]:.0f} s, {note}", file=sys.stderr, flush=True)

    def finish(self, note: str = "") -> None:
        return None


def made(
    store: Path, name: str, settings: TrainSettings, version: Artifact
) -> tuple[str, dict[int, float]]:
    """The URL of a finished run, and after how many seconds each of its steps was done."""
    draft = run_draft(str(store), name, settings, {"data": version.digest})
    watch = Watch()
    run = train(draft, [Source(version.url)], settings, "local", watch)
    return run.url, watch.seconds


def lines(url: str, name: str) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, Path(url, name).read_text().splitlines())


def curve(url: str, settings: TrainSettings, seconds: dict[int, float]) -> list[dict[str, Any]]:
    """The points at which a run was asked: step, samples, seconds since its start, loss, k-NN."""
    losses = {line["step"]: line["loss"] for line in lines(url, "metrics.jsonl")}
    return [
        {
            "step": (step := row["step"]),
            "samples": step * settings.batch,
            "seconds": round(seconds.get(step, 0.0), 1),
            "loss": round(losses[max(each for each in losses if each <= max(step, 1))], 3),
            "knn": round(row["value"], 4),
        }
        for row in lines(url, ASKED)
        if row["metric"] == "accuracy"
    ]


def accuracies(url: str, bank: str, test: str) -> dict[str, dict[str, float]]:
    """Accuracy by task of a run's encoder, of the same network untrained, and of raw pixels."""
    found: dict[str, dict[str, float]] = {}
    named = {"pixels": encoders.PIXELS, "untrained": f"{encoders.RANDOM}{url}", "trained": url}
    for name, encoder in named.items():
        # Of so few images a probe of raw pixels takes minutes, and tells little.
        asked = ("knn",) if name == "pixels" else ("knn", "linear_probe")
        settings = EvaluateSettings.model_validate({"label": "concept", "tasks": asked})
        with tasks.single_thread():
            outcome = tasks.evaluate(encoders.load(encoder), bank, test, settings)
        found[name] = {task: round(float(outcome.right(task).mean()), 4) for task in asked}
    return found


def on_cpu(data: Path, store: Path, steps: int | None) -> dict[str, Any]:
    """The curve of a short run, and what it ends with."""
    bank, test = str(store / "bank.parquet"), str(store / "asked.parquet")
    pq.write_table(some(data / "train.parquet", BANK if not steps else TRIED, "bank"), bank)
    pq.write_table(some(data / "test.parquet", ASKED_OF if not steps else TRIED), test)
    version = dataset(store, "cifar", some(data / "train.parquet", IMAGES if not steps else 1_000))
    given = CPU | ({"steps": steps} if steps else {})
    settings = TrainSettings.model_validate(
        {
            **given,
            "log_every": max(given["steps"] // POINTS // 5, 1),
            "evaluate_every": max(given["steps"] // POINTS, 1),
            "evaluate": {"train": bank, "test": test, "label": "concept", "resamples": 100},
        }
    )
    started = time.monotonic()
    url, seconds = made(store, "curve", settings, version)
    took = time.monotonic() - started
    return {
        "what": "Barlow Twins, a narrow ResNet-18, CIFAR-10 without labels",
        "settings": settings.identity(),
        "seconds": round(took, 1),
        "asked": {"bank": BANK, "test": ASKED_OF, "neighbours": settings.evaluate.neighbours},
        "accuracy": accuracies(url, bank, test),
        "curve": curve(url, settings, seconds),
    }


def on_gpu(
    data: Path, store: Path, steps: int | None, objectives: Sequence[str] = tuple(TARGETS)
) -> dict[str, Any]:
    """Objectives at full length; a few `steps` of few images try it out anywhere."""
    if not torch.cuda.is_available() and not steps:
        sys.exit("PyTorch sees no GPU here, and this is not for a CPU; --steps 2 tries it out")
    count, batch = (IMAGES, GPU["batch"]) if not steps else (TRIED // 8, 4)
    bank, test = str(store / "bank.parquet"), str(store / "asked.parquet")
    images = some(data / "train.parquet", count)
    pq.write_table(images, bank)
    pq.write_table(some(data / "test.parquet", count), test)
    version, found = dataset(store, "cifar", images), {}
    epochs = 200
    for objective in objectives:
        device = {} if torch.cuda.is_available() else {"device": "cpu", "threads": 1}
        total = steps or epochs * count // batch
        asked = {"train": bank, "test": test, "label": "concept", "resamples": 100, **GPU_ASKED}
        settings = TrainSettings.model_validate(
            {
                **GPU, **device, "objective": objective, "options": GPU_OPTIONS[objective],
                "batch": batch, "steps": total, "evaluate_every": max(total // ASKED_ON_GPU, 1),
                "evaluate": asked,
            }
        )  # fmt: skip
        started = time.monotonic()
        url, seconds = made(store, objective, settings, version)
        points = curve(url, settings, seconds)
        found[objective] = {
            "minutes": round((time.monotonic() - started) / 60, 1),
            "knn": points[-1]["knn"],
            "target": TARGETS[objective],
            "settings": settings.identity(),
            "curve": points,
        }
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"gpu": gpu, "epochs": epochs, "asked": GPU_ASKED, "objectives": found}


def classified(url: str, test: str) -> float:
    """Accuracy of a run's own classifier."""
    encoder = encoders.load(url)
    asked = encode(test, "concept", encoder)
    layer = load_file(Path(url, HEAD))
    classes = json.loads(Path(url, CLASSES).read_text())
    scores = asked.features @ layer["weight"].numpy().T + layer["bias"].numpy()
    right = [
        classes[best] == label for best, label in zip(scores.argmax(1), asked.labels, strict=True)
    ]
    return float(np.mean(right))


def transferred(asked: Transfer, data: Path, store: Path, steps: int | None) -> dict[str, Any]:
    """Fine-tuning from scratch and from fractals, seed by seed: images, weights and order."""
    test = str(store / "asked.parquet")
    pq.write_table(some(data / "test.parquet", ASKED_OF if not steps else TRIED), test)
    drawn, limit = fractals(store, asked.fractals), {"steps": steps} if steps else {}
    rows: list[dict[str, float]] = []
    for seed in range(SEEDS):
        few = some(data / "train.parquet", asked.images, "few", seed)
        version = dataset(store, f"few-{asked.images}-{seed}", few)
        classes = sorted(set(few["concept"].to_pylist()))
        own = {"seed": seed, **limit}
        learn = TrainSettings.model_validate(asked.learn | own)
        first, _ = made(store, "told-apart", with_classes(learn, {"": drawn.settings}), drawn)
        tuned = FINE_TUNE | {"steps": asked.steps} | own
        tuned |= {"options": FINE_TUNE["options"] | {"classes": classes}}
        row: dict[str, float] = {"seed": seed}
        for name, start in (("scratch", None), ("fractals", first)):
            settings = TrainSettings.model_validate({**tuned, "pretrained": start})
            row[name] = round(classified(made(store, name, settings, version)[0], test), 4)
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    gain = over_seeds([row["fractals"] - row["scratch"] for row in rows], CONFIDENCE)
    return {
        "what": "accuracy on CIFAR-10's test set after fine-tuning on few of its images",
        "images": asked.images,
        "objective": asked.learn["objective"],
        "fractals": asked.fractals.model_dump(mode="json"),
        "steps": {"fractals": asked.learn["steps"], "fine_tuning": asked.steps},
        "batch": FINE_TUNE["batch"],
        "seeds": rows,
        "mean": {
            name: round(float(np.mean([row[name] for row in rows])), 4)
            for name in ("scratch", "fractals")
        },
        "gain": {name: round(float(getattr(gain, name)), 4) for name in ("value", "low", "high")},
    }


PARTS = {
    "cpu": (on_cpu, "learning"),
    "gpu": (on_gpu, "learning_gpu"),
    "fractals": (partial(transferred, TOLD_APART), "learning_fractals"),
    "scenes": (partial(transferred, MULTI_INSTANCE), "learning_scenes"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machine", choices=sorted(PARTS), default="cpu")
    parser.add_argument("--data", default=os.environ.get("CIFAR10"), help="folder of the Parquet")
    parser.add_argument("--store", help="keep the store here, and go on where it was")
    parser.add_argument("--steps", type=int, help="of each run: to try this out, nothing is kept")
    parser.add_argument("--objective", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--to", help="of a GPU's figures: the folder to write them to")
    parser.add_argument(
        "--keep", nargs="+", metavar="JSON", help="keep what was written --to there"
    )
    given = parser.parse_args()
    if given.keep:
        keep("learning_gpu", merged(given.keep, "objectives"), *PACKAGES)
        return
    data = Path(given.data or "")
    if not (given.data and (data / "train.parquet").is_file()):
        sys.exit("CIFAR-10 is not here: give --data FOLDER or set CIFAR10; nothing was measured")
    part, name = PARTS[given.machine]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(given.store or folder).absolute()
        store.mkdir(parents=True, exist_ok=True)
        if given.machine == "gpu":
            part = partial(part, objectives=given.objective)
        found = part(data, store, given.steps)
    if given.to:
        Path(given.to, f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    if given.steps or given.to:
        print(json.dumps(found, indent=1))
    else:
        keep(name, found, *PACKAGES)


if __name__ == "__main__":
    main()
