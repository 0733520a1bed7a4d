"""Does curation help on CIFAR-10, of whose pool 40 % of captions and 20 % of images are spoilt?

The pool: captions "a photo of a CLASS" and the like, two in five of another class, and one row in
five a copy of another's bytes. The recipe: a CLIP learns from a small clean split, drops what it
holds for mismatched, and duplicates go. The race: the same small CLIP trained on what is kept and
on the raw pool, at equal samples seen, over three seeds, on CIFAR-10's own test set.

CIFAR-10 as Parquet, train.parquet and test.parquet with columns jpg and label, is looked for at
--data or $CIFAR10. Results are kept at full scale alone.
Run: python tests/bench/cifar_race.py --data FOLDER [--store FOLDER] [--scale 0.05]
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from record import keep

from flows.race.main import RaceOptions, execute, prepare
from flows.race.steps import CURATED, Race
from infra.artifacts import load
from infra.dataset import Dataset
from infra.digests import generator
from infra.progress import display

TRUSTED, POOL, TEST = 5_000, 40_000, 10_000  # images at full scale; copies come on top
MISMATCHED, COPIES = 0.4, 0.2  # shares of the pool's rows
FILTER_STEPS, BUDGET, SEEDS = 3_000, 64_000, 3
FILES = 4
TEMPLATES = ("a photo of a {}", "a picture of a {}", "this is a {}", "a small {}", "a blurry {}")
# The margin is ln(10 p) for a CLIP that gives the caption's class of ten the probability p. Where
# 60 % of captions are right and p is 0.65, 96 % of them are right, and above it more; that is room
# for a network that is surer than it should be.
MARGIN = round(float(np.log(10 * 0.65)), 2)
MODEL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {
        "timm_model_name": "test_resnet", "timm_model_pretrained": False, "timm_pool": "avg",
        "timm_proj": "linear", "image_size": 32,
    },
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}  # fmt: skip


def caption(concept: str, *key: Any) -> str:
    return TEMPLATES[int(generator("template", *key).integers(len(TEMPLATES)))].format(concept)


def spoilt(images: pa.Table) -> pa.Table:
    """The pool of these images: its copies and its wrong captions; `url` says whose copy a row is.

    Of n images and their copies, MISMATCHED of the rows name another class than the image has.
    """
    rng = generator("cifar pool")
    count = images.num_rows
    copies = rng.choice(count, round(count * COPIES / (1 - COPIES)), replace=False)
    source = np.concatenate([np.arange(count), copies])
    labels = np.asarray(images["label"].to_pylist())[source]
    classes = np.unique(labels)
    wrong = np.zeros(len(source), bool)
    wrong[rng.choice(len(source), round(MISMATCHED * len(source)), replace=False)] = True
    shift = rng.integers(1, len(classes), len(source))
    other = classes[(np.searchsorted(classes, labels) + shift) % len(classes)]
    said = np.where(wrong, other, labels)
    order = rng.permutation(len(source))
    rows = images.take(pa.array(source[order]))
    urls = [f"https://cifar.example/{source[i]}/{i}" for i in order]
    captions = [caption(str(said[i]), int(i)) for i in order]
    columns = {"jpg": rows["jpg"], "caption": captions, "url": urls}
    return pa.table({**columns, "concept": rows["label"], "said": [str(said[i]) for i in order]})


def clean(images: pa.Table, name: str) -> pa.Table:
    labels = images["label"].to_pylist()
    captions = [caption(label, name, row) for row, label in enumerate(labels)]
    urls = [f"https://cifar.example/{name}/{row}" for row in range(len(labels))]
    columns = {"jpg": images["jpg"], "caption": captions, "url": urls}
    return pa.table({**columns, "concept": images["label"]})


def some(path: Path, count: int, skip: int = 0) -> pa.Table:
    table = pq.read_table(path, columns=["jpg", "label"])
    order = generator("cifar", path.stem).permutation(table.num_rows)[skip : skip + count]
    return table.take(pa.array(order)).combine_chunks()


def write_data(data: Path, folder: Path, scale: float) -> pa.Table:
    """Write pool, trusted and evaluation split as Parquet; the pool."""
    trusted, pool, test = (round(scale * count) for count in (TRUSTED, POOL, TEST))
    made = spoilt(some(data / "train.parquet", pool, trusted))
    step = -(-made.num_rows // FILES)
    for number in range(FILES):
        part = made.slice(number * step, step).drop_columns(["said"])
        pq.write_table(part, folder / f"pool-{number}.parquet")
    clean_train = clean(some(data / "train.parquet", trusted), "trusted")
    pq.write_table(clean_train, folder / "trusted.parquet")
    pq.write_table(clean(some(data / "test.parquet", test), "test"), folder / "evaluation.parquet")
    return made


def recipe(folder: Path, scale: float) -> dict[str, Any]:
    def source(name: str) -> list[dict[str, str]]:
        columns = {"image": "jpg", "caption": "caption", "url": "url"}
        return [{"parquet": f"{folder}/{name}.parquet", **columns}]

    steps = max(50, round(scale * FILTER_STEPS))
    options = {"crop_scale": [0.75, 1.0], "jitter": 0.4, "flip": 0.5, "same_caption": "positive"}
    return {
        "name": "curated",
        "data": {
            "pool": source("pool-*"),
            "trusted": source("trusted"),
            "evaluation": source("evaluation"),
        },
        "filter": {
            "train": {
                "objective": "clip", "model": MODEL, "image_size": 32, "batch": 64,
                "steps": steps, "lr": 0.0015, "weight_decay": 0.5, "threads": 1,
                "options": options,
            }
        },
        "curate": {
            "rules": [
                {"reason": "corrupt", "drop": "image.decode_error IS NOT NULL"},
                {"reason": "mismatched_caption", "score": "clip.margin", "min": MARGIN},
            ],
            "dedup": {"near": [{"threshold": 0.98, "floor": 0.95}]},
        },
        "run": {"executor": "local"},
    }  # fmt: skip


def kept_rows(race: Race) -> pa.Table:
    made = load(race.pipelines["curated"].steps[CURATED].draft.url)
    assert made is not None
    dataset = Dataset(made)
    rows = [dataset.rows(shard, ["url", "status", "sha256"]) for shard in dataset.shards]
    return pa.concat_tables(rows).filter(pc.field("status") == "ok")


def measured(race: Race, pool: pa.Table) -> dict[str, Any]:
    """What was kept, against what was planted, and what came of it."""
    concepts = zip(pool["concept"].to_pylist(), pool["said"].to_pylist(), strict=True)
    right = dict(zip(pool["url"].to_pylist(), (own == said for own, said in concepts), strict=True))
    kept = kept_rows(race)
    images = Counter(kept["sha256"].to_pylist())
    bytes_of_pool = len(set(pool["jpg"].to_pylist()))
    table = json.loads(Path(race.table.url, "race.json").read_text())
    raw, ours = table["entrants"]
    wrong = sum(not right[url] for url in kept["url"].to_pylist())
    return {
        "pool": {
            "rows": pool.num_rows,
            "mismatched": 1 - sum(right.values()) / pool.num_rows,
            "exact_duplicates": 1 - bytes_of_pool / pool.num_rows,
        },
        "kept": {
            "rows": kept.num_rows,
            "mismatched": wrong / max(kept.num_rows, 1),
            "exact_duplicates": kept.num_rows - len(images),
        },
        "samples_seen": table["samples_seen"],
        "seeds": table["seeds"],
        "raw": raw["evaluation"],
        "curated": ours["evaluation"],
        "curated_less_raw": ours["difference"],
        "measures": {entrant["label"]: entrant["measures"] for entrant in table["entrants"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("CIFAR10"), help="folder of the Parquet")
    parser.add_argument("--store", help="keep the store here, and go on where it was")
    parser.add_argument("--scale", type=float, default=1.0, help="share of images and of training")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    data = Path(given.data or "")
    if not (given.data and (data / "train.parquet").is_file()):
        sys.exit("CIFAR-10 is not here: give --data FOLDER or set CIFAR10; nothing was measured")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(given.store or made).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        pool = write_data(data, folder, given.scale)
        (folder / "curated.yaml").write_text(yaml.safe_dump(recipe(folder, given.scale)))
        budget = str(max(640, round(given.scale * BUDGET)))
        changes = ("race.evaluate.tasks=[zero_shot, knn]",)
        names = (str(folder / "curated.yaml"),)
        options = RaceOptions(names, None, budget, given.seeds, changes, str(folder / "store"))
        race = prepare(options)
        print(execute(race, display(), lambda step, session: step.run(session)).report)
        result = measured(race, pool)
    if given.scale == 1 and given.seeds >= SEEDS:
        keep("cifar_race", result, "torch", "open_clip_torch", "timm")
    else:
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
