import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from indexes.encoder import CHUNK, CONFIG, WEIGHTS, ClipEncoder, folder_files
from infra import filesystem
from infra.errors import SluiceError


@pytest.fixture(scope="module")
def encoder(model_folder: Path) -> ClipEncoder:
    return ClipEncoder.load(str(model_folder))


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes((model_folder / name).read_bytes())
    return tmp_path


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(8, 90, (count, 2))
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]


def test_vectors_are_unit_float16(encoder: ClipEncoder) -> None:
    images = encoder.encode_images(pictures(CHUNK + 5))
    texts = encoder.encode_texts(["a cat", "", "kü \U0001f600 \ud800", "word " * 500])
    assert images.shape == (CHUNK + 5, 16)
    assert texts.shape == (4, 16)
    for vectors in (images, texts):
        assert vectors.dtype == np.float16
        assert np.linalg.norm(vectors.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-3)
    assert encoder.encode_images([]).shape == (0, 16)
    assert encoder.encode_texts([]).shape == (0, 16)


def test_the_model_is_the_one_open_clip_loads(encoder: ClipEncoder, model_folder: Path) -> None:
    import open_clip
    from PIL import Image

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model_folder}")
    images = pictures(9)
    texts = [f"a photo of {i} cats" for i in range(9)]
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
        image = model.eval().encode_image(pixels, normalize=True).numpy()
        text = model.encode_text(tokenizer(texts), normalize=True).numpy()
    assert encoder.encode_images(images) == pytest.approx(image, abs=1e-3)
    assert encoder.encode_texts(texts) == pytest.approx(text, abs=1e-3)
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)
    assert encoder.dimension == encoder.context_length == 16


def test_a_vector_does_not_depend_on_its_batch(encoder: ClipEncoder) -> None:
    images = pictures(2 * CHUNK + 7)
    order = np.random.default_rng(1).permutation(len(images))
    vectors = encoder.encode_images(images)
    assert (encoder.encode_images([images[i] for i in order]) == vectors[order]).all()
    assert (encoder.encode_images(images[:3]) == vectors[:3]).all()
    texts = [f"{i} dogs" for i in range(CHUNK + 3)]
    assert (encoder.encode_texts(texts[::-1])[::-1] == encoder.encode_texts(texts)).all()
    alone = np.concatenate([encoder.encode_images([image]) for image in images[:8]])
    assert alone == pytest.approx(vectors[:8], abs=2e-3)


def test_the_fingerprint_is_of_weights_and_configuration(
    encoder: ClipEncoder, folder: Path, new_model: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    assert ClipEncoder.load(f"local-dir:{folder}").fingerprint == encoder.fingerprint
    other = ClipEncoder.load(str(new_model(tmp_path / "other", 1)))
    assert other.fingerprint != encoder.fingerprint
    config = json.loads((folder / CONFIG).read_text())
    config["preprocess_cfg"]["mean"] = [0.1, 0.1, 0.1]
    (folder / CONFIG).write_text(json.dumps(config))
    assert ClipEncoder.load(str(folder)).fingerprint != encoder.fingerprint


def test_folder_files_are_the_same_bytes_again(encoder: ClipEncoder, model_folder: Path) -> None:
    config = json.loads((model_folder / CONFIG).read_text())
    state = dict(reversed(encoder.model.state_dict().items()))
    files = folder_files(state, config["model_cfg"], config["preprocess_cfg"])
    for name, data in files.items():
        assert (model_folder / name).read_bytes() == data


def test_a_remote_folder_loads(encoder: ClipEncoder, folder: Path) -> None:
    for name in (CONFIG, WEIGHTS):
        filesystem.write_bytes("memory://models/tiny", name, (folder / name).read_bytes())
    assert ClipEncoder.load("memory://models/tiny").fingerprint == encoder.fingerprint
    with pytest.raises(SluiceError, match="is no model folder"):
        ClipEncoder.load("memory://models/none")


@pytest.mark.parametrize(
    ("model", "pretrained", "what"),
    [
        ("no-such-model", None, "knows no model"),
        ("ViT-B-32", None, "without weights"),
        ("ViT-B-32", "no_such_tag", "neither a checkpoint file nor a pretrained tag"),
        ("no/such/folder", None, "no model folder"),
        ("local-dir:nowhere", None, "no model folder"),
    ],
)
def test_a_name_that_is_wrong(model: str, pretrained: str | None, what: str) -> None:
    with pytest.raises(SluiceError, match=what) as error:
        ClipEncoder.load(model, pretrained)
    assert error.value.way_out


def test_a_folder_that_is_not_whole(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "elsewhere")
    with pytest.raises(SluiceError, match=f"no {WEIGHTS}"):
        ClipEncoder.load(str(folder))
    (folder / WEIGHTS).write_bytes((folder / "elsewhere").read_bytes()[:1000])
    with pytest.raises(SluiceError, match="cannot load the model"):
        ClipEncoder.load(str(folder))
    (folder / CONFIG).write_text("{not json")
    with pytest.raises(SluiceError, match="not an open_clip configuration"):
        ClipEncoder.load(str(folder))
    (folder / CONFIG).write_text('{"model_cfg": {"embed_dim": 3}}')
    with pytest.raises(SluiceError, match="lacks"):
        ClipEncoder.load(str(folder))


@pytest.mark.parametrize(
    ("tower", "key", "value", "names"),
    [
        ("vision_cfg", "width", 48, "cannot load"),
        ("vision_cfg", "layers", 2, "cannot load"),
        ("vision_cfg", "image_size", 64, "visual.positional_embedding"),
        ("text_cfg", "context_length", 8, "positional_embedding"),
        ("text_cfg", "no_such_key", 8, "no_such_key"),
        ("text_cfg", "hf_tokenizer_name", "someone/something", "cannot load"),
    ],
)
def test_a_checkpoint_that_does_not_fit_its_configuration(
    folder: Path, tower: str, key: str, value: object, names: str
) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"][tower][key] = value
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(SluiceError, match=names) as error:
        ClipEncoder.load(str(folder))
    assert str(folder) in error.value.what


def test_weights_that_are_not_numbers(folder: Path, encoder: ClipEncoder) -> None:
    config = json.loads((folder / CONFIG).read_text())
    state = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    state["ln_final.weight"][0] = float("nan")
    data = folder_files(state, config["model_cfg"], config["preprocess_cfg"])[WEIGHTS]
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(SluiceError, match="not numbers"):
        ClipEncoder.load(str(folder))


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("ran-code"),))


def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(SluiceError, match="cannot load the model"):
        ClipEncoder.load("RN50", str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran-code").exists()


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(SluiceError, match="no-one/no-model") as error:
        ClipEncoder.load("hf-hub:no-one/no-model")
    assert "not reached" in error.value.way_out


def test_a_folder_is_loaded_without_a_connection_or_a_log_handler(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*args: object, **kwargs: object) -> None:
        raise AssertionError("a local model needs no network")

    monkeypatch.setattr(socket, "getaddrinfo", connect)
    before = list(logging.getLogger().handlers)
    ClipEncoder.load(str(folder)).encode_texts(["a"])
    assert logging.getLogger().handlers == before


def test_bfloat16_is_close_and_said_so(encoder: ClipEncoder, model_folder: Path) -> None:
    low = ClipEncoder.load(str(model_folder), precision="bfloat16")
    images, texts = pictures(9), [f"a photo of {i} cats" for i in range(9)]
    for ours, theirs in (
        (encoder.encode_images(images), low.encode_images(images)),
        (encoder.encode_texts(texts), low.encode_texts(texts)),
    ):
        cosine = (ours.astype(np.float32) * theirs.astype(np.float32)).sum(axis=1)
        assert cosine.min() > 0.99
        assert not np.array_equal(ours, theirs)


def test_a_batch_that_does_not_fit_is_halved(model_folder: Path) -> None:
    small, large = (ClipEncoder.load(str(model_folder)) for _ in range(2))
    large.chunk = 8 * CHUNK
    forward, sizes = large.model.encode_image, []

    def scarce(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 2 * CHUNK:
            raise torch.OutOfMemoryError("out of memory")
        return forward(pixels)

    large.model.encode_image = scarce  # type: ignore[assignment]
    images = pictures(5 * CHUNK + 3)
    found = large.encode_images(images).astype(np.float32)
    assert found == pytest.approx(small.encode_images(images).astype(np.float32), abs=2e-3)
    assert (large.chunk, max(sizes)) == (2 * CHUNK, 6 * CHUNK)

    def none(pixels: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    large.model.encode_image = none  # type: ignore[assignment]
    with pytest.raises(SluiceError, match="32 samples do not fit into the memory of cpu"):
        large.encode_images(images)
