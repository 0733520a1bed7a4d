"""What a run leaves is read by others: open_clip, timm, safetensors, CLIP_benchmark."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain import encoders
from pretrain.objectives import build

IMAGES = [np.full((40, 30, 3), shade, np.uint8) for shade in (20, 120, 220)]
COLOURS = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, request):
    """exported(objective, settings) -> the folder of the files that the objective exports."""
    folder = tmp_path_factory.mktemp("exported")

    def write(objective, settings):
        url = folder / objective
        if not url.exists():
            url.mkdir()
            for name, data in build(settings).files():
                (url / name).write_bytes(data)
        return url

    return write


# That every objective's files are read strictly is held in tests/pretrain/test_encoders.py.
@pytest.mark.parametrize("objective", ["clip", "siglip"])
def test_open_clip_reads_the_folder_and_gives_our_vectors(objective, small, exported):
    import open_clip

    url = exported(objective, small(objective))
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{url}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{url}")
    ours = encoders.load(str(url))
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.fromarray(image)) for image in IMAGES])
        images = model.eval().encode_image(pixels, normalize=True)
        texts = model.encode_text(tokenizer(COLOURS), normalize=True)
    np.testing.assert_allclose(images, ours.encode_images(IMAGES), atol=2e-3)
    np.testing.assert_allclose(texts, ours.encode_texts(COLOURS), atol=2e-3)


@pytest.mark.parametrize("objective", ["dino", "mae", "spark"])
def test_timm_takes_the_weights_strictly(objective, small, exported):
    import timm
    from safetensors.torch import load_file

    url = exported(objective, small(objective))
    config = json.loads((url / "config.json").read_text())
    kwargs = {"num_classes": 0, **config["timm_kwargs"]}
    model = timm.create_model(config["timm_name"], **kwargs)
    state = load_file(url / "model.safetensors")
    model.load_state_dict(state, strict=True)
    assert all(value.is_floating_point() or value.ndim == 0 for value in state.values())
    with torch.inference_mode():
        assert torch.isfinite(model.eval()(torch.zeros(1, 3, *[config["image_size"]] * 2))).all()


@pytest.mark.parametrize("objective", ["clip", "mae"])
def test_the_weights_are_plain_safetensors(objective, small, exported):
    from safetensors import safe_open

    url = exported(objective, small(objective))
    (path,) = url.glob("*.safetensors")
    with safe_open(path, "np") as file:
        names = list(file.keys())
        assert names and all(file.get_tensor(name).dtype == np.float32 for name in names[:5])


def test_clip_benchmark_reads_a_run_and_finds_our_similarities(small, exported, colour_splits):
    # Its own modules alone: the package's head asks for extras that a model does not need.
    pytest.importorskip("clip_benchmark", reason="CLIP_benchmark is not installed")
    from clip_benchmark.metrics import zeroshot_classification as benchmark
    from clip_benchmark.models.open_clip import load_open_clip

    from pretrain.evaluate import labelled, zero_shot

    url = str(exported("clip", small("clip")))
    model, transform, tokenizer = load_open_clip(f"local-dir:{url}", pretrained=None)
    model.eval()
    encoder = encoders.load(url)
    split = labelled.encode(colour_splits[1], "concept", encoder)
    images = [image for _, image in labelled.images(colour_splits[1])]
    truth = [COLOURS.index(name) for name in split.labels]
    pixels = [transform(Image.fromarray(image)) for image in images]
    loader = torch.utils.data.DataLoader(list(zip(pixels, truth, strict=True)), 20)
    templates = ["a photo of {c}.", "{c}"]
    weights = benchmark.zero_shot_classifier(model, tokenizer, COLOURS, templates, "cpu", amp=False)
    # Its `evaluate` turns arrays of one number to floats, which NumPy 2.4 refuses.
    logits, _ = benchmark.run_classification(model, weights, loader, "cpu", amp=False)
    vectors = zero_shot.class_vectors(encoder.encode_texts, COLOURS, ["a photo of {}.", "{}"])
    np.testing.assert_allclose(logits / 100, split.features @ vectors.T, atol=2e-3)
