"""Makes tests/data/store-v1.tar.xz: a small store as today's code writes it.

    python -m tests.data.store_v1 FOLDER

The kept file is never made again: it stands for the stores that people have, and the code of
tomorrow must read it (tests/flows/test_upgrade.py). When something new is written into stores, add
a second fixture beside it, store-v2.tar.xz, by a script of its own; the test takes all there are.
What it holds is in RECIPE: two shards of painted images with captions, one of them a copy; a CLIP,
scores, pairs, verdicts, a curated version, an index over it, and a run of two steps.
"""

import io
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from flows.main import Options, execute, prepare
from infra.progress import SilentDisplay

HERE = Path(__file__).parent
RECIPE: dict[str, Any] = {
    "name": "fixture",
    "data": {"pool": [{"tars": "tars/*.tar"}], "rows_per_shard": 8},
    "curate": {
        "rules": [
            {"reason": "corrupt", "drop": "image.decode_error IS NOT NULL"},
            {"reason": "too_small", "score": "least(image.width, image.height)", "min": 20},
            {"reason": "unlike", "score": "clip.similarity", "min": -1},
            {"reason": "short_caption", "score": "text.words", "min": 2},
        ],
        "dedup": {"near": [{"vectors": "descriptor/pixels", "threshold": 0.95, "floor": 0.9}]},
    },
    "pretrain": {
        "mae": {
            "sources": {"curated": 1},
            "train": {
                "objective": "mae",
                "model": "vit_tiny_patch16_224",
                "model_kwargs": {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1,
                                 "num_heads": 2},
                "options": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
                "image_size": 16, "batch": 4, "steps": 2, "threads": 1,
            },
        },
    },
    "run": {"executor": "inline", "workers": 1},
}  # fmt: skip


CLIP: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
PREPROCESS: dict[str, Any] = {
    "size": 32, "mean": [0.5] * 3, "std": [0.25] * 3,
    "interpolation": "bicubic", "resize_mode": "squash",
}  # fmt: skip


def write_model(folder: Path) -> None:
    """A CLIP of a few kilobytes once packed: its tokens share 61 vectors."""
    import torch
    from open_clip import model

    from indexes.encoder import folder_files

    torch.manual_seed(0)
    vision, text = model.CLIPVisionCfg(**CLIP["vision_cfg"]), model.CLIPTextCfg(**CLIP["text_cfg"])
    state = model.CLIP(CLIP["embed_dim"], vision, text).state_dict()
    tokens = state["token_embedding.weight"]
    tokens.copy_(tokens[torch.arange(len(tokens)) % 61].clone())
    folder.mkdir(parents=True)
    for name, data in folder_files(state, CLIP, PREPROCESS).items():
        (folder / name).write_bytes(data)


def picture(number: int) -> bytes:
    """A PNG of its own colours and lines; the last is the first again, one is too small."""
    draw = np.random.default_rng(number % 11)
    size = 12 if number == 4 else 32
    blocks = draw.integers(0, 256, (4, 4, 3), np.uint8)
    pixels = blocks.repeat(size // 4, 0).repeat(size // 4, 1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_tars(folder: Path) -> None:
    """Two tars as img2dataset leaves them, of six samples each; one image is none."""
    folder.mkdir(parents=True)
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(6 * shard, 6 * shard + 6):
                caption = "one" if number == 7 else f"painted blocks, number {number}"
                url = f"https://images{shard}.example.org/{number}.png"
                image = b"no image" if number == 2 else picture(number)
                facts = json.dumps({"url": url, "caption": caption, "key": f"{number:09d}"})
                for extension, data in (
                    ("png", image), ("txt", caption.encode()), ("json", facts.encode()),
                ):  # fmt: skip
                    member = tarfile.TarInfo(f"{number:09d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def make(folder: Path, targets: Sequence[str] = ("index", "pretrain"), *changes: str) -> Path:
    """The store, made in `folder`; the tars and the model it was made from lie in it, too.

    changes: to the recipe, as after `--set`. Once more, with others, adds to the store.
    """
    store = folder / "store"
    if not store.exists():
        write_tars(store / "tars")
        write_model(store / "model")
    recipe = {
        **RECIPE,
        "data": {**RECIPE["data"], "pool": [{"tars": str(store / "tars/*.tar")}]},
        "filter": {"model": str(store / "model")},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    prepared = prepare(Options(str(folder / "recipe.yaml"), changes, str(store)))
    for target in targets:
        execute(prepared, target, SilentDisplay(), lambda step, session: step.run(session))
    return store


def main() -> None:
    folder = Path(sys.argv[1])
    store = make(folder)
    target = HERE / "store-v1.tar.xz"
    if target.exists():
        raise SystemExit(f"{target} is kept as it is: see above")
    with tarfile.open(target, "w:xz") as tar:
        tar.add(store, "store")
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
