"""Small networks that the tests of several objectives build."""

from typing import Any

SWIN: dict[str, Any] = {
    "model": "swin_tiny_patch4_window7_224",
    "model_kwargs": {
        "embed_dim": 12,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 4,
        "drop_path_rate": 0.0,
    },
}
