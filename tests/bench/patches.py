"""What leaving out patches saves: bytes of photographs with patches dropped, as JPEG.

Which patches go, a model decides; here they are drawn, so that no weights are needed: SEEDS times
for each of the bundled photographs. Run: python tests/bench/patches.py
"""

import io

import numpy as np
from record import keep

from curation.patches import GRID, drop_patches, masks
from flows.demo.photos import PHOTOS, load

SEEDS, QUALITIES, KEPT = 3, (75, 90), (0.8, 0.5)


def main() -> None:
    rng = np.random.default_rng(0)
    bytes_kept: dict[str, float] = {}
    for quality in QUALITIES:
        files = []
        for name in PHOTOS:
            buffer = io.BytesIO()
            load(name).save(buffer, "JPEG", quality=quality)
            files.append(buffer.getvalue())
        for kept in KEPT:
            shares = []
            for data in files * SEEDS:
                mask = masks(rng.random((1, GRID * GRID)), kept)[0].as_py()
                shares.append(len(drop_patches(data, mask)) / len(data))
            bytes_kept[f"quality {quality}, patches kept {kept}"] = round(float(np.mean(shares)), 3)
    figures = {
        "what": "share of a JPEG's bytes that is left, mean over photographs",
        "sizes": {"photographs": len(PHOTOS), "seeds": SEEDS},
        "bytes_kept": bytes_kept,
    }
    keep("patches", figures, "numpy", "simplejpeg", "pillow")


if __name__ == "__main__":
    main()
