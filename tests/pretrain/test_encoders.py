import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from infra.digests import generator
from infra.errors import SluiceError
from pretrain import options
from pretrain.encoders import CHUNK, load

RNG = generator("images")
IMAGES = [
    RNG.integers(0, 256, (*RNG.integers(20, 50, 2), 3), dtype=np.uint8) for _ in range(CHUNK + 3)
]
KINDS = ["clip", "dino", "mae"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_depends_on_its_image_alone(runs, kind):
    encoder = load(runs[kind])
    together = encoder.encode_images(IMAGES)
    assert together.shape == (len(IMAGES), 16 if kind == "clip" else 24)
    assert together.dtype == np.float32 and np.isfinite(together).all()
    backwards = encoder.encode_images(IMAGES[::-1])[::-1]
    np.testing.assert_array_equal(together, backwards)
    assert encoder.encode_images([]).shape == (0, together.shape[1])
    assert encoder.seed == {"clip": 5, "dino": 6, "mae": 7}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_random_is_the_same_architecture_with_other_weights(runs, kind):
    trained = load(runs[kind]).encode_images(IMAGES[:4])
    random = load(f"random:{runs[kind]}", seed=1)
    again = load(f"random:{runs[kind]}", seed=1)
    other = load(f"random:{runs[kind]}", seed=2)
    vectors = random.encode_images(IMAGES[:4])
    assert vectors.shape == trained.shape and random.seed == 1
    assert not np.allclose(vectors, trained)
    np.testing.assert_array_equal(vectors, again.encode_images(IMAGES[:4]))
    assert not np.allclose(vectors, other.encode_images(IMAGES[:4]))


def test_loading_leaves_the_callers_random_numbers_alone(runs):
    import torch

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load(f"random:{runs['dino']}")
    load(f"random:{runs['clip']}")
    assert torch.rand(1) == expected


def test_dino_takes_the_class_token_and_mae_the_mean_of_patches(runs, tmp_path):
    import torch

    vectors, tokens = {}, {}
    for kind in ("dino", "mae"):
        folder = tmp_path / kind
        shutil.copytree(runs["dino"], folder)  # the same weights for both
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "objective": kind}))
        encoder = load(str(folder))
        vectors[kind] = encoder.encode_images(IMAGES[:2])
        with torch.inference_mode():
            tokens[kind] = encoder.model.forward_features(encoder.preprocess(IMAGES[:2])).numpy()
    np.testing.assert_allclose(vectors["dino"], tokens["dino"][:, 0], atol=1e-5)
    np.testing.assert_allclose(vectors["mae"], tokens["mae"][:, 1:].mean(1), atol=1e-5)


def test_a_run_may_say_itself_which_vector_is_taken(runs, tmp_path):
    folder = copy(runs["dino"], tmp_path / "run")
    change(folder, pooling="patch_mean")
    assert load(str(folder)).pooling == "patch_mean"
    change(folder, pooling="sum")
    with pytest.raises(SluiceError, match=r"config\.json has pooling 'sum'"):
        load(str(folder))


def test_a_run_of_an_objective_of_another_sluice_is_named(runs, tmp_path):
    folder = copy(runs["dino"], tmp_path / "run")
    change(folder, objective="byol")
    with pytest.raises(SluiceError, match=r"config\.json: objective is 'byol'; use one of"):
        load(str(folder))
    change(folder, pooling="class_token")
    assert load(str(folder)).encode_images(IMAGES[:2]).shape == (2, 24)


def test_a_network_without_a_class_token_is_pooled(image_run, tmp_path):
    url = image_run(tmp_path / "run", "dino", 0, class_token=False, global_pool="avg")
    assert load(url).encode_images(IMAGES[:2]).shape == (2, 24)


def test_clip_runs_encode_texts_and_no_other_does(runs):
    texts = load(runs["clip"]).encode_texts(["a photo of a cat", "a dog"])
    assert texts.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-3)
    assert not hasattr(load(runs["dino"]), "encode_texts")
    assert not hasattr(load("pixels"), "encode_texts")


def test_pixels_are_centred_on_grey():
    encoder = load("pixels", pixels=4)
    grey = np.full((8, 9, 3), 127, np.uint8)
    white = np.full((30, 20, 3), 255, np.uint8)
    vectors = encoder.encode_images([grey, white])
    assert vectors.shape == (2, 48) and encoder.seed is None
    np.testing.assert_allclose(vectors[0], 0, atol=0.01)
    np.testing.assert_allclose(vectors[1], 1, atol=0.01)
    assert encoder.encode_images([]).shape == (0, 48)


def copy(url: str, folder: Path) -> Path:
    shutil.copytree(url, folder)
    return folder


def change(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(values)
    (folder / "config.json").write_text(json.dumps(config))


def test_a_checkpoint_that_does_not_fit_its_model_is_named(runs, tmp_path):
    folder = copy(runs["dino"], tmp_path / "run")
    kwargs = json.loads((folder / "config.json").read_text())["timm_kwargs"]
    change(folder, timm_kwargs={**kwargs, "embed_dim": 48})
    with pytest.raises(SluiceError, match=r"model\.safetensors do not fit their model"):
        load(str(folder))


def test_damaged_runs_are_named(runs, tmp_path):
    folder = copy(runs["mae"], tmp_path / "cut")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(SluiceError, match="do not fit"):
        load(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(SluiceError, match=r"model\.safetensors"):
        load(str(folder))
    change(folder, timm_name="no_such_network")
    with pytest.raises(SluiceError, match="cannot be built"):
        load(str(folder))
    (folder / "config.json").write_text('{"objective": "mae"}')
    with pytest.raises(SluiceError, match="lacks image_size"):
        load(str(folder))
    (folder / "config.json").write_text("not json")
    with pytest.raises(SluiceError, match="not JSON"):
        load(str(folder))
    with pytest.raises(SluiceError, match="no encoder at"):
        load(str(tmp_path))


def test_weights_that_are_not_numbers_are_refused(runs, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy(runs["mae"], tmp_path / "nan")
    state = load_file(folder / "model.safetensors")
    state["cls_token"][:] = float("nan")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(SluiceError, match="not numbers, first in cls_token"):
        load(str(folder))


@pytest.mark.parametrize("objective", options.names())
def test_reads_what_an_objective_writes(objective, small, tmp_path):
    import torch

    from pretrain.objectives import build

    model = build(small(objective, seed=4)).eval()
    for name, data in model.files():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    encoder = load(str(tmp_path))
    vectors = encoder.encode_images(IMAGES[:3])
    assert np.isfinite(vectors).all() and vectors.std() > 0
    if objective == "dino":
        with torch.inference_mode():
            expected = model.encoder.model(encoder.preprocess(IMAGES[:3])).numpy()
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    elif options.declared(objective).needs.model == "open_clip":
        assert encoder.encode_texts(["a cat"]).shape == vectors[:1].shape
