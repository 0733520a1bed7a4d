"""Embedding tars with a CLIP model, against clip-retrieval in an environment of its own.

The same tars and the same small model of random weights on both sides: what is left is reading,
decoding, preprocessing, tokenizing and writing. What the network itself costs is measured around
its two forward passes and taken off; start-up stays out, since the figures are the difference
between many images and few. The network's share of wall time is that of ViT-B-32 in our loop.
One thread for the network. Run: python tests/bench/embed.py --peer PATH/bin/python
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from record import keep

from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.settings import SourceSettings
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.shards import TarWriter
from infra.stage import run_stage

SIDE, PER_TAR, FEW, MANY, RUNS = 384, 500, 2, 6, 3  # pixels; images; tars; tars; turns
SHARE_IMAGES = 256
WORDS = "a photo of one red and small bicycle on the old street near two trees by day"
NAME = "bench-tiny-224"
TINY = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 64, "head_width": 64, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
TIMED = """
import json, os, resource, sys, time
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
import torch
torch.set_num_threads(1)
spent = {"cpu": 0.0, "wall": 0.0}
def timed(model):
    for name in ("encode_image", "encode_text"):
        def call(*args, _inner=getattr(model, name), **kwargs):
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return _inner(*args, **kwargs)
            finally:
                spent["cpu"] += time.thread_time() - cpu
                spent["wall"] += time.perf_counter() - wall
        setattr(model, name, call)
def cpu():
    each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in each)
def report(start, wall):
    outside = cpu() - start - spent["cpu"]
    print(json.dumps({"outside": outside, "network": spent["cpu"],
        "share": spent["wall"] / (time.perf_counter() - wall)}))
"""
OURS = (
    TIMED
    + """
from curation.score import ScoreWork
from curation.scores.clip import ClipScorer, load_encoder
if __name__ == "__main__":
    url, model, pretrained, shards = sys.argv[1:5]
    scorer = ClipScorer(model, pretrained or None)
    timed(load_encoder(scorer.location(), scorer.pretrained, scorer.precision).model)
    work, start, wall = ScoreWork(url, {"clip": scorer}), cpu(), time.perf_counter()
    for shard in range(int(shards)):
        work(shard, ["clip"])
    report(start, wall)
"""
)
PEER = (
    TIMED
    + """
import open_clip
if __name__ == "__main__":
    folder, name, checkpoint, tars, out = sys.argv[1:6]
    open_clip.add_model_config(folder)
    from all_clip.main import load_clip
    from clip_retrieval.clip_inference.main import main
    model = f"open_clip:{name}/{checkpoint}"
    loaded = load_clip(clip_model=model, use_jit=False, warmup_batch_size=1, clip_cache_path=None)
    load_clip(clip_model=model, use_jit=False, warmup_batch_size=64, clip_cache_path=None)
    timed(loaded[0])
    start, wall, said = cpu(), time.perf_counter(), os.dup(1)
    os.dup2(2, 1)
    main(input_dataset=tars, output_folder=out, input_format="webdataset", batch_size=64,
         num_prepro_workers=2, enable_text=True, enable_image=True, enable_metadata=True,
         clip_model=model, use_jit=False, wds_number_file_per_input_file=500, enable_wandb=False)
    os.dup2(said, 1)
    report(start, wall)
"""
)


def make_tars(folder: Path, count: int) -> None:
    """JPEGs of crops of photographs, and their captions."""
    from skimage import data

    rng = np.random.default_rng(0)
    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    words = WORDS.split()
    for tar in range(count):
        with (folder / f"{tar:05d}.tar").open("wb") as file:
            writer = TarWriter(file)
            for index in range(PER_TAR):
                photo = photos[rng.integers(len(photos))]
                side = int(min(photo.shape[:2]) * rng.uniform(0.5, 0.95))
                top, left = (rng.integers(size - side + 1) for size in photo.shape[:2])
                crop = Image.fromarray(photo[top : top + side, left : left + side])
                buffer = io.BytesIO()
                crop.resize((SIDE, SIDE)).save(buffer, "JPEG", quality=90)
                caption = " ".join(rng.choice(words, 12)) + f" {index}"
                key = f"{tar:05d}{index:04d}"
                members = [(f"{key}.jpg", buffer.getvalue()), (f"{key}.txt", caption.encode())]
                writer.add_all([*members, (f"{key}.json", json.dumps({"key": key}).encode())])
            writer.close()


def make_models(folder: Path) -> dict[str, Path]:
    """Random weights of the small model and of ViT-B-32, as checkpoints."""
    import open_clip

    (folder / f"{NAME}.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(str(folder))
    made: dict[str, Path] = {}
    for name in (NAME, "ViT-B-32"):
        torch.manual_seed(0)
        made[name] = folder / f"{name}.pt"
        torch.save(open_clip.create_model(name).state_dict(), made[name])
    return made


def run(python: str, script: str, *arguments: object) -> dict[str, float]:
    command = [python, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def ingest(folder: Path, tars: Path) -> str:
    sources = [SourceSettings(tars=str(tars))]
    draft = ingest_draft(str(folder / "store"), "pool", sources, "bench")
    work = IngestWork(draft.url)
    run_stage("ingest", {"": draft}, ingest_items(sources), work, InlineRunner(), SilentDisplay())
    return draft.url


def remove(url: str) -> None:
    import shutil

    shutil.rmtree(Path(url) / "scores", ignore_errors=True)


def marginal(few: dict[str, float], many: dict[str, float]) -> float:
    """CPU seconds outside the network for 1,000 images more."""
    return (many["outside"] - few["outside"]) / ((MANY - FEW) * PER_TAR) * 1000


def measure(folder: Path, peer: str | None) -> dict[str, Any]:
    tars = folder / "tars"
    tars.mkdir()
    make_tars(tars, MANY)
    models, url = make_models(folder), ingest(folder, tars)
    ours: list[float] = []
    theirs: list[float] = []
    known = f"import open_clip\nopen_clip.add_model_config({str(folder)!r})\n"
    script = OURS.replace("import torch\n", "import torch\n" + known, 1)
    run(sys.executable, script, url, NAME, models[NAME], 1)  # compiles what is then kept on disk
    for turn in range(RUNS):
        found = []
        for count in (FEW, MANY):
            remove(url)
            found.append(run(sys.executable, script, url, NAME, models[NAME], count))
        ours.append(marginal(*found))
        if peer is not None:
            found = []
            for count in (FEW, MANY):
                names = tars / f"{{00000..{count - 1:05d}}}.tar"
                out = folder / f"out{turn}-{count}"
                found.append(run(peer, PEER, folder, NAME, models[NAME], names, out))
            theirs.append(marginal(*found))
        print("turn", turn, ours[-1:], theirs[-1:], flush=True)
    remove(url)
    share = run(sys.executable, OURS, url, "ViT-B-32", models["ViT-B-32"], 1)
    figures = {"ours": round(statistics.median(ours), 3)}
    if theirs:
        figures["clip-retrieval"] = round(statistics.median(theirs), 3)
        figures["ratio"] = round(statistics.median(ours) / statistics.median(theirs), 3)
    return {
        "what": "CPU seconds outside the network per 1,000 images and captions",
        "sizes": {"side": SIDE, "images": [FEW * PER_TAR, MANY * PER_TAR], "runs": RUNS},
        "peer": "clip-retrieval 2.45.0",
        "outside_cpu_seconds_per_1000": figures,
        "network_share_of_wall_vit_b_32": round(share["share"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="Python of the environment with clip-retrieval 2.45")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keep("embed", measure(Path(folder), chosen.peer), "torch", "open_clip_torch", "pillow")


if __name__ == "__main__":
    main()
