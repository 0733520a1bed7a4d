"""Training on a GPU, from local tars, with all that a run does: loader, views, step, log.

Tars of pictures that are made on the spot, a dataset version of them, and each case in a process of
its own through `pretrain.loop.Trainer`, for some seconds after its first steps:

    images_s       images a second over all that time; images_s_median by the median step
    waiting        share of it between the end of a step and the start of the next, on the GPU's own
                   clock: it lacked data, or made views
    loader, views, model   each alone: decoded pixels, views of one batch, steps on one batch
    gb             memory at most (torch.cuda.max_memory_allocated), from the first timed step on
    gflop          of an image: matrix products and convolutions of one pass forth and back, all
                   networks of the objective, counted by torch.utils.flop_counter; views, optimizer
                   and loss beyond its products are not counted, nor is what compiling saves
    share          gflop * images_s over what a large bfloat16 product reaches in the same process

Compressed bytes are read anew for each window of shards (from the page cache: the tars are fresh),
and every image is decoded anew (cache_mib 0), as of a dataset larger than memory. A case whose
batch does not fit is tried once more with half of it.

Run, where the GPU is: python tests/bench/train_gpu.py --to FOLDER [--modes eager] [--cases ...]
Then, where the repository is: python tests/bench/train_gpu.py --keep FOLDER/train_gpu.json ...
Here, on tiny models: python tests/bench/train_gpu.py --device cpu --tiny --modes eager --to FOLDER

On a machine with PyTorch, timm, numba and pyarrow but no network, this also needs the wheels of
annotated-types ftfy open_clip_torch orjson protego pycurl pydantic pydantic_core simplejpeg
typing_extensions typing-inspection wcwidth, for its own Python. Get them here into .whl (a folder
that git ignores) by
    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64
        --platform manylinux2014_x86_64 -d .whl NAME...
carry it along, and run there, once for each mode, eager first:
    python3 -m pip install -q --no-index --no-deps --target /tmp/site .whl/*.whl
    PYTHONPATH=$PWD:/tmp/site python3 tests/bench/train_gpu.py --modes eager --budget 540
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pictures import CORES, make_data
from record import keep, merged
from torch.utils.flop_counter import FlopCounterMode

from pretrain.data import Batch, Source
from pretrain.job import Job
from pretrain.loop import Trainer, deterministic
from pretrain.settings import TrainSettings

NAME, MODES = "train_gpu", ("eager", "compile")
IN_TAR, TARS = 512, 16
SHUFFLE = 2048  # a quarter of them all: shards come and go
WARM, LEAST = 5, 5  # steps before the clock starts, and steps that are timed at least
SETTLE = 30.0  # seconds without which no case is begun
SIZE = {"cuda": 8192, "cpu": 512}  # of the square matrices of the peak
PACKAGES = ("torch", "timm", "open_clip_torch", "numpy", "pillow", "numba")

DECODER = {"decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16}
HEAD = {"prototypes": 65536, "hidden": 2048, "bottleneck": 256}
CASES: dict[str, dict[str, Any]] = {  # the published sizes; the largest networks first
    "mae-vit-l16": {
        "objective": "mae", "model": "vit_large_patch16_224", "batch": 256, "options": DECODER,
    },
    "clip-vit-l14": {"objective": "clip", "model": "ViT-L-14", "batch": 128},
    "dinov2-vit-s16": {
        "objective": "dinov2", "model": "vit_small_patch16_224", "batch": 128,
        "model_kwargs": {"reg_tokens": 4},
        "options": {"local_crops": 8, "local_size": 96, "drop_path": 0.3, **HEAD},
    },
    "mae-vit-b16": {
        "objective": "mae", "model": "vit_base_patch16_224", "batch": 512, "options": DECODER,
    },
    "clip-vit-b32": {"objective": "clip", "model": "ViT-B-32", "batch": 1024},
}  # fmt: skip

TINY = "mae-vit-l16", "clip-vit-l14", "dinov2-vit-s16"  # one of each objective


def settings_of(case: str, mode: str, batch: int, device: str, tiny: bool) -> TrainSettings:
    """tiny: the objective's own default network, which is small.

    Of a processor in float32: few of them have bfloat16, and the others take seconds for a step.
    """
    wanted = CASES[case] if not tiny else {"objective": CASES[case]["objective"]}
    common = {
        "image_size": 64 if tiny else 224,
        "steps": 1_000_000,
        "lr": 1e-4,
        "precision": "float32" if device == "cpu" else "bfloat16",
        "compile": mode == "compile",
        "threads": 1 if device == "cpu" else CORES,
        "device": device,
        "cache_mib": 0,
        "shuffle": 32 if tiny else SHUFFLE,
    }
    if not tiny:
        wanted = {"model_kwargs": {}, **wanted}
    return TrainSettings.model_validate({**common, **wanted, "batch": batch})


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def mark(device: torch.device) -> Any:
    """A moment on the device's own clock."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: Any, end: Any) -> float:
    """Seconds; the device must have been waited for."""
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3


def matrix_peak(device: torch.device) -> float:
    """TFLOP/s of a large product of random numbers, bfloat16 on a GPU, by the median of 20."""
    side, kind = SIZE[device.type], torch.bfloat16 if device.type == "cuda" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in "ab")
    marks = [mark(device)]
    for _ in range(30):
        left @ right
        marks.append(mark(device))
    wait(device)
    took = [between(*pair) for pair in pairwise(marks[10:])]
    return 2 * side**3 / median(took) / 1e12


def rate(work: Callable[[], Any], images: int, seconds: float, device: torch.device) -> float:
    """Images a second of `work`, which does so many."""
    wait(device)
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds or done < 2 * images:
        work()
        done += images
    wait(device)
    return done / (time.perf_counter() - begin)


def loader_alone(trainer: Trainer, seconds: float) -> tuple[Batch, dict[str, float]]:
    """A batch, and images a second and a second of a processor, all threads together."""
    batches = trainer.stream.batches(trainer.stream.start())
    batch = next(batches)  # compiles, and reads the first window
    cpu, size = time.process_time(), trainer.settings.batch
    done = 0

    def load() -> None:
        nonlocal done
        next(batches)
        done += size

    found = rate(load, size, seconds, torch.device("cpu"))
    spent = time.process_time() - cpu
    batches.close()  # type: ignore[attr-defined]
    return batch, {"loader": found, "loader_cpu": done / spent}


def count_flops(trainer: Trainer, views: Any) -> int:
    """Of one pass forth and back, not compiled."""
    with FlopCounterMode(display=False) as counter:
        with trainer.autocast():
            loss, _ = trainer.objective(views, 0.5)
        loss.backward()
    trainer.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def parts_alone(trainer: Trainer, batch: Batch, seconds: float) -> dict[str, float]:
    """Images a second of making views and of steps, of one batch; and what a step multiplies."""
    device, size = trainer.device, trainer.settings.batch
    with torch.no_grad():
        views = trainer.objective.views(batch, device)
        made = rate(lambda: trainer.objective.views(batch, device), size, seconds, device)
    flops, begin = count_flops(trainer, views), time.perf_counter()
    trainer.advance(batch.state, views)
    wait(device)
    first = time.perf_counter() - begin
    for _ in range(WARM):
        trainer.advance(batch.state, views)
    model = rate(lambda: trainer.advance(batch.state, views), size, seconds, device)
    return {"views": made, "flops": flops, "first_step_s": first, "model": model}


def together(trainer: Trainer, seconds: float) -> dict[str, float]:
    """The loop of a run, without a halt of its own: times are read at the end."""
    device, size = trainer.device, trainer.settings.batch
    moments: list[tuple[Any, Any]] = []  # its data are there, its end
    with trainer.ahead() as viewed:
        for _ in range(WARM):
            trainer.advance(*viewed.next())
        wait(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        first, begin = mark(device), time.perf_counter()
        while time.perf_counter() - begin < seconds or len(moments) < LEAST:
            ready = viewed.next()
            start = mark(device)
            trainer.advance(*ready)
            moments.append((start, mark(device)))
        wait(device)
    ends = [first, *(end for _, end in moments)]
    idle = [between(end, start) for end, (start, _) in zip(ends, moments, strict=False)]
    took = [between(*pair) for pair in pairwise(ends)]
    found = {
        "images_s": size * len(took) / sum(took),
        "images_s_median": size / median(took),
        "waiting": sum(idle) / sum(took),
        "steps": len(took),
    }
    if device.type == "cuda":
        found["gb"] = torch.cuda.max_memory_allocated() / 1e9
        found["gb_reserved"] = torch.cuda.max_memory_reserved() / 1e9
    return found


def measure(url: str, settings: TrainSettings, seconds: float, free: bool) -> dict[str, Any]:
    """All figures of a case, in this process. free: without deterministic algorithms."""
    short, size = seconds / 3, settings.batch
    with tempfile.TemporaryDirectory() as folder, deterministic(settings.threads):
        if free:
            torch.use_deterministic_algorithms(False)
        trainer = Trainer(Job(folder, NAME, settings, (Source(url),)))
        try:
            device = trainer.device
            peak = matrix_peak(device)
            batch, found = loader_alone(trainer, short)
            found |= parts_alone(trainer, batch, short)
            flops = found.pop("flops")
            trainer.state = trainer.stream.start()
            found |= together(trainer, seconds)
        finally:
            trainer.writer.close()
    tflop = flops / size / 1e12
    found |= {"gflop": tflop * 1e3, "matrix_peak": peak, "tflops": tflop * found["images_s"]}
    found |= {"share": found["tflops"] / peak, "share_model": tflop * found["model"] / peak}
    figures = {name: round(value, 4) for name, value in found.items()}
    return {"setup": setup(device), "figures": {"batch": size, **figures}}


def setup(device: torch.device) -> dict[str, Any]:
    """Machine and versions, of this process."""
    machine: dict[str, Any] = {"processor": platform.machine(), "cores": CORES}
    versions = {package: version(package) for package in PACKAGES}
    versions["python"] = platform.python_version()
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        machine |= {"gpu": card.name, "gpu_gb": round(card.total_memory / 1e9)}
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return {"machine": machine, "versions": versions}


def child(given: argparse.Namespace) -> None:
    """What a process of one case does; its last line is what it found."""
    settings = settings_of(given.cases[0], given.modes[0], given.batch, given.device, given.tiny)
    try:
        found = measure(given.url, settings, given.seconds, given.free)
    except torch.OutOfMemoryError:
        found = {"too_large": True}
    print(json.dumps(found), flush=True)


def attempt(given: argparse.Namespace, case: str, mode: str, batch: int, url: str) -> Any:
    """A case in a process of its own, which is ended after `given.limit` seconds."""
    command = [sys.executable, __file__, "--cases", case, "--modes", mode, "--url", url]
    command += ["--batch", str(batch), "--device", given.device, "--seconds", str(given.seconds)]
    command += [name for name, on in (("--tiny", given.tiny), ("--free", given.free)) if on]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    try:
        out, err = process.communicate(timeout=given.limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {given.limit:.0f} s"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        print(err[-3000:], file=sys.stderr, flush=True)
        return {"failed": (err.strip().splitlines() or ["it said nothing"])[-1][:300]}
    return json.loads(out.strip().splitlines()[-1])


def results(given: argparse.Namespace, url: str, end: float) -> Iterator[tuple[str, Any]]:
    """Each case's name and what came of it, until the time is up."""
    most = given.limit
    for mode in given.modes:
        for case in given.cases:
            batch = given.batch or (8 if given.tiny else CASES[case]["batch"])
            name = f"{case} {mode}{' free' if given.free else ''}"
            for size in (batch, batch // 2):
                left = end - time.monotonic()
                if left < SETTLE:
                    print(f"{name}: not begun, {left:.0f} s are left", flush=True)
                    break
                given.limit = min(most, left)
                found = attempt(given, case, mode, size, url)
                if not found.get("too_large"):
                    yield name, found
                    break
                print(f"{name}: a batch of {size} does not fit", flush=True)
            else:
                yield name, {"failed": f"batches of {batch} and of {batch // 2} do not fit"}


def run(given: argparse.Namespace) -> None:
    """All cases; what is known is written after each."""
    end = time.monotonic() + given.budget
    path = Path(given.to, f"{NAME}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        url, data = make_data(Path(folder), *((2, 32) if given.tiny else (TARS, IN_TAR)))
        print("data", json.dumps(data), flush=True)
        for name, found in results(given, url, end):
            told = {**found.get("setup", {}), **told, "data": data, "seconds": given.seconds}
            figures = found.get("figures", found)
            told["cases"] = {**told.get("cases", {}), name: figures}
            path.write_text(json.dumps(told, indent=1) + "\n")
            print(name, json.dumps(figures), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", default=os.environ.get("OUT"), help=f"folder for {NAME}.json")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="all of them")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--batch", type=int, help="instead of each case's own")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks and few images")
    parser.add_argument("--free", action="store_true", help="without deterministic algorithms")
    parser.add_argument("--seconds", type=float, default=12.0, help="of a case, all together")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds of a case's process")
    parser.add_argument("--budget", type=float, default=570.0, help="seconds of the whole command")
    parser.add_argument("--keep", nargs="+", metavar="JSON", help="keep what was measured before")
    parser.add_argument("--url", help=argparse.SUPPRESS)  # a case's own process
    given = parser.parse_args()
    given.cases = given.cases or list(TINY if given.tiny else CASES)
    if given.url:
        child(given)
    elif given.keep:
        keep(NAME, merged(given.keep, "cases"))
    elif given.to:
        run(given)
    else:
        parser.error("say --to FOLDER")


if __name__ == "__main__":
    main()
