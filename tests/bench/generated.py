"""The generated-image score: fits its head, and measures it on generators it has not seen.

Real: crops of bundled photographs, as stored and made smaller, and CIFAR-10 where it is given.
Generated: what was made of other crops of the same kinds by autoencoders trained here (with
transposed convolutions, and with resizing and convolutions), by transposed convolutions of random
kernels, by upsampling; and fractals. Half of both kinds have been JPEGs, so that the head does not
learn who saved a picture how. Photographs are split: none is in both halves.

For each generator the AUROC of a head that was fit without it, of one that was fit with it, and of
single statistics. Run: python tests/bench/generated.py [--cifar FOLDER] [--write]; --write keeps
the head.
"""

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from record import keep
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from curation.scores import generated
from curation.synthetic.render import draw
from curation.synthetic.settings import FractalSettings
from flows.demo.photos import PHOTOS, load

TEST = ("astronaut", "coffee", "gravel", "galaxies", "motorcycle", "temple", "rocket")
CROPS = 60  # of each photograph
SMALL = 600  # of CIFAR-10, in each half
SIDE = 128
STEPS, BATCH = 300, 64
SAMPLE = 400  # images of each generator in each half
Images = list[np.ndarray]


def crops(name: str, rng: np.random.Generator) -> Images:
    """Squares of a photograph: half as stored, half made smaller by 1.2 to 3."""
    photo = load(name)
    made: Images = []
    for number in range(CROPS):
        side = int(SIDE * (1 if number % 2 else rng.uniform(1.2, 3)))
        side = min(side, *photo.size)
        left, top = (int(rng.integers(0, size - side + 1)) for size in photo.size)
        crop = photo.crop((left, top, left + side, top + side))
        if side > SIDE:
            crop = crop.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        made.append(np.asarray(crop))
    return made


def small(folder: Path | None, split: str) -> Images:
    """CIFAR-10's images, from Parquet files with a column `jpg`."""
    if folder is None:
        return []
    files = pq.read_table(folder / f"{split}.parquet")["jpg"].slice(0, SMALL).to_pylist()
    return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]


def resized(method: Image.Resampling) -> Callable[[np.ndarray], np.ndarray]:
    def apply(image: np.ndarray) -> np.ndarray:
        side = image.shape[0]
        half = Image.fromarray(image).resize((side // 2, side // 2), Image.Resampling.LANCZOS)
        return np.asarray(half.resize((side, side), method))

    return apply


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def pixels(values: torch.Tensor) -> np.ndarray:
    return ((values[0].permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).round().byte().numpy()


def deconvolved(image: np.ndarray) -> np.ndarray:
    """Half the size, then a transposed convolution of a kernel of 3: its steps overlap unevenly."""
    seed = int(image.astype(np.int64).sum())
    noise = np.random.default_rng(seed).uniform(-0.15, 0.15, (3, 3))
    kernel = torch.tensor(np.outer([0.5, 1, 0.5], [0.5, 1, 0.5]) + noise).float()
    half = F.interpolate(tensor(image), scale_factor=0.5, mode="area")
    made = F.conv_transpose2d(
        half, kernel.expand(3, 1, 3, 3), stride=2, padding=1, output_padding=1, groups=3
    )
    return pixels(made)


def autoencoder(transposed: bool) -> nn.Sequential:
    """Down by 4 and up again, by transposed convolutions or by resizes and plain ones."""
    wide = 24

    def up(before: int, after: int) -> list[nn.Module]:
        if transposed:
            return [nn.ConvTranspose2d(before, after, 4, 2, 1)]
        return [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)]

    return nn.Sequential(
        nn.Conv2d(3, wide, 4, 2, 1), nn.ReLU(), nn.Conv2d(wide, wide, 4, 2, 1), nn.ReLU(),
        *up(wide, wide), nn.ReLU(), *up(wide, 3), nn.Tanh(),
    )  # fmt: skip


def trained(transposed: bool, images: Images) -> Callable[[np.ndarray], np.ndarray]:
    torch.manual_seed(0)
    rng, network = np.random.default_rng(0), autoencoder(transposed)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(STEPS):
        batch: list[torch.Tensor] = []
        for image in (images[index] for index in rng.integers(0, len(images), BATCH)):
            top, left = (int(rng.integers(0, side - 31)) for side in image.shape[:2])
            batch.append(tensor(image[top : top + 32, left : left + 32]))
        real = torch.cat(batch)
        optimiser.zero_grad()
        F.l1_loss(network(real), real).backward()
        optimiser.step()
    network.eval()

    def apply(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return pixels(network(tensor(image)))

    return apply


def fractals(count: int, start: int) -> Images:
    settings = FractalSettings.model_validate({"size": SIDE, "points": 60_000})
    return [draw(settings, start + n, n) for n in range(count)]


def saved(images: Images, rng: np.random.Generator) -> Images:
    """Half of them as JPEGs of quality 60 to 95."""
    found: Images = []
    for image in images:
        if rng.random() < 0.5:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(60, 96)))
            image = np.asarray(Image.open(buffer))
        found.append(image)
    return found


def described(images: Images, rng: np.random.Generator) -> np.ndarray:
    values = [generated.features(image) for image in saved(images, rng)]
    return np.stack([value for value in values if value is not None])


def fit(real: np.ndarray, made: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """Weight and bias for features as they are; each generator weighs the same, both kinds too."""
    values = np.concatenate([real, *made])
    mean, scale = values.mean(axis=0), values.std(axis=0) + 1e-3
    weights = np.concatenate(
        [np.full(len(real), 1 / len(real))]
        + [np.full(len(each), 1 / len(each) / len(made)) for each in made]
    )
    target = np.repeat([0, 1], [len(real), len(values) - len(real)])
    model = LogisticRegression(C=1.0, max_iter=5000)
    model.fit((values - mean) / scale, target, weights * len(values) / 2)
    weight = model.coef_[0] / scale
    return weight, float(model.intercept_[0] - weight @ mean)


def auroc(real: np.ndarray, made: np.ndarray) -> float:
    """Of one number each; 0.5 says nothing."""
    target = np.repeat([0, 1], [len(real), len(made)])
    return round(float(roc_auc_score(target, np.concatenate([real, made]))), 4)


def halves(generators: dict[str, Callable[[np.ndarray], np.ndarray]], real: Images, start: int):
    """Features of the real images of one half of the data, and of each generator's."""
    rng = np.random.default_rng(start)
    order = rng.permutation(len(real))
    sources = [real[index] for index in order]
    made = {
        name: described([apply(image) for image in sources[:SAMPLE]], rng)
        for name, apply in generators.items()
    }
    made["fractals"] = described(fractals(SAMPLE // 2, start), rng)
    return described(real, rng), made


def cost(image: np.ndarray) -> float:
    """CPU milliseconds per image, best of five rounds."""
    rounds: list[float] = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(50):
            generated.statistics(image)
        rounds.append((time.process_time() - start) / 50 * 1e3)
    return round(min(rounds), 3)


def table(
    real: np.ndarray, made: dict[str, np.ndarray], unseen: np.ndarray, fresh: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Of each generator, on photographs and crops that nothing was fit to."""
    weight, _ = fit(real, list(made.values()))
    rows: dict[str, dict[str, float]] = {}
    for name, values in fresh.items():
        others, _ = fit(real, [each for other, each in made.items() if other != name])
        rows[name] = {
            "auroc_held_out_generator": auroc(unseen @ others, values @ others),
            "auroc_seen_generator": auroc(unseen @ weight, values @ weight),
            "auroc_high_frequency_alone": auroc(
                unseen[:, generated.HIGH].mean(axis=1), values[:, generated.HIGH].mean(axis=1)
            ),
            "auroc_grid_alone": auroc(unseen[:, -4:].max(axis=1), values[:, -4:].max(axis=1)),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--cifar", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    train = [crop for name in PHOTOS if name not in TEST for crop in crops(name, rng)]
    large = [crop for name in TEST for crop in crops(name, rng)]
    train, test = train + small(options.cifar, "train"), large + small(options.cifar, "test")
    generators = {
        "nearest": resized(Image.Resampling.NEAREST),
        "bilinear": resized(Image.Resampling.BILINEAR),
        "bicubic": resized(Image.Resampling.BICUBIC),
        "deconvolution": deconvolved,
        "autoencoder_transposed": trained(True, train),
        "autoencoder_resize": trained(False, train),
    }
    real, made = halves(generators, train, 0)
    unseen, fresh = halves(generators, test, 10_000)
    weight, bias = fit(real, list(made.values()))
    weight, bias = np.round(weight, 5), round(bias, 5)
    changed = described([enlarged(image) for image in large], np.random.default_rng(3))
    figures = {
        "real_train": len(real), "real_test": len(unseen), "cifar10": options.cifar is not None,
        "generators": table(real, made, unseen, fresh),
        "photographs_called_generated": called(unseen @ weight + bias),
        "enlarged_photographs_called_generated": called(changed @ weight + bias),
        "cpu_milliseconds_per_image": {
            str(image.shape[0]): cost(image) for image in (test[0], np.tile(test[0], (8, 8, 1)))
        },
    }  # fmt: skip
    if options.write:
        generated.HEAD.write_text(json.dumps({"weight": weight.tolist(), "bias": bias}) + "\n")
    keep("generated", figures, "numpy", "scikit-learn", "torch")


def called(logits: np.ndarray) -> float:
    return round(float((logits > 0).mean()), 4)


def enlarged(image: np.ndarray) -> np.ndarray:
    side = round(image.shape[0] * 1.5)
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
