"""A Ray that is told it has two GPUs, and what its workers see of them: printed as JSON."""

import json
import os

import ray

from infra.ray_runner import RayRunner

WORKERS = 3


def seen(_: int) -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def main() -> None:
    ray.init(
        "local", num_cpus=WORKERS + 1, num_gpus=2, include_dashboard=False, log_to_driver=False
    )
    with RayRunner(WORKERS) as runner:
        first = [
            sorted(dict(runner.map(seen, range(6), gpu=gpu)).values()) for gpu in (True, False)
        ]
        free = ray.available_resources().get("GPU")
        again = sorted(dict(runner.map(seen, range(6), gpu=True)).values())
    print(json.dumps({"with": first[0], "without": first[1], "free": free, "again": again}))


if __name__ == "__main__":
    main()
