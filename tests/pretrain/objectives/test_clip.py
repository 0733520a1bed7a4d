import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch.nn.functional import normalize

from infra import artifacts
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from pretrain import views
from pretrain.data import Source
from pretrain.objectives.clip import (
    MAX_LOGIT_SCALE,
    build,
    caption_keys,
    clip_loss,
    similarities,
)
from pretrain.options.clip import ClipOptions
from pretrain.run import run_draft, train
from pretrain.settings import TrainSettings
from pretrain.texts import encode_text, unit_text
from tests.pretrain.batches import batch


def unit(count: int, width: int, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=rng), dim=1)


def test_the_loss_is_the_direct_formula() -> None:
    image, text, scale = unit(6, 4, 0), unit(6, 4, 1), torch.tensor(9.0)
    loss, _ = clip_loss(image, text, scale)
    similarity = (9.0 * image @ text.T).double().numpy()
    rows = [-similarity[i, i] + np.log(np.exp(similarity[i]).sum()) for i in range(6)]
    columns = [-similarity[i, i] + np.log(np.exp(similarity[:, i]).sum()) for i in range(6)]
    assert loss.item() == pytest.approx((np.mean(rows) + np.mean(columns)) / 2, rel=1e-5)


def test_the_loss_is_open_clips() -> None:
    image, text, scale = unit(6, 4, 0), unit(6, 4, 1), torch.tensor(9.0)
    expected = open_clip.ClipLoss()(image, text, scale)
    assert clip_loss(image, text, scale)[0].item() == pytest.approx(expected.item(), rel=1e-6)


def test_equal_captions_share_the_target() -> None:
    image, text, scale = unit(3, 4, 0), unit(3, 4, 1), torch.tensor(5.0)
    text = torch.stack([text[0], text[0], text[2]])
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    loss, logits = clip_loss(image, text, scale, same)
    rows, columns = logits.log_softmax(1), logits.log_softmax(0)
    weights = same / same.sum(1, keepdim=True)
    expected = -((weights * rows).sum() + (weights * columns).sum()) / 6
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    alone, _ = clip_loss(image, text, scale, torch.eye(3, dtype=torch.bool))
    assert alone.item() == pytest.approx(clip_loss(image, text, scale)[0].item(), rel=1e-6)


def test_the_temperature_starts_as_published_and_stays_within_bounds(small: Any) -> None:
    clip = build(small("clip"))
    assert clip.model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    for value, expected in ((9.0, MAX_LOGIT_SCALE), (-1.0, 0.0)):
        with torch.no_grad():
            clip.model.logit_scale.fill_(value)
        clip.after_update(0.5)
        assert clip.model.logit_scale.item() == pytest.approx(expected)


def test_views_are_the_models_input(small: Callable[..., Any]) -> None:
    clip = build(small("clip", options={"jitter": 0.4, "grey": 0.5, "invert": 0.5, "flip": 0.5}))
    found = clip.views(batch(4, captions=["a", "b", "a", "c"]), torch.device("cpu"))
    assert found["images"].shape == (4, 3, 32, 32)
    assert found["tokens"].shape == (4, 8)
    assert torch.equal(found["tokens"][0], found["tokens"][2])
    assert found["captions"] is None
    expected = clip.parts.tokenizer(["a", "b", "a", "c"])
    assert torch.equal(found["tokens"], expected[:, :8])


def test_positive_captions_reach_the_loss(small: Callable[..., Any]) -> None:
    # Where equal captions read alike, too, the loss is the same either way: some lose words here.
    options = {"same_caption": "positive", "drop_tokens": 0.5}
    clip = build(small("clip", options=options))
    said = ["a red cat on a mat", "a dog", "a red cat on a mat", "a bird"]
    found = clip.views(batch(4, captions=said), torch.device("cpu"))
    keys = found["captions"]
    assert (keys[:, None] == keys).sum(1).tolist() == [2, 1, 2, 1]
    loss, _ = clip(found, 0.0)
    image = clip.model.encode_image(found["images"], normalize=True)
    text = unit_text(clip.model, found["tokens"])
    same = keys[:, None] == keys
    assert torch.equal(loss, clip_loss(image, text, clip.model.logit_scale.exp(), same)[0])
    plain = clip_loss(image, text, clip.model.logit_scale.exp())[0]
    assert abs(loss - plain) > 1e-4


def test_captions_are_read_as_open_clip_reads_them(small: Callable[..., Any]) -> None:
    clip, captions = build(small("clip")), ["a red cat", "", "caf\u00e9 &amp; more", "word " * 90]
    assert torch.equal(clip.tokenize(captions), clip.parts.tokenizer(captions))


def test_keys_of_captions_are_equal_where_captions_are() -> None:
    keys = caption_keys(["a", "b", "", "a", "\ud800"])
    assert keys.dtype == torch.int64
    assert keys[0] == keys[3] and len(set(keys.tolist())) == 4


def test_in_one_process_both_kinds_of_negatives_are_one() -> None:
    image, text, scale = unit(6, 4, 0), unit(6, 4, 1), torch.tensor(9.0)
    whole, own = (similarities(image, text, scale, kind) for kind in ("global", "local_exact"))
    for first, second in zip(whole, own, strict=True):
        assert torch.allclose(first, second)


def test_the_pair_with_partial_gradients_cannot_be_said() -> None:
    with pytest.raises(ValidationError, match="'global' or 'local_exact'"):
        ClipOptions.model_validate({"negatives": "local"})
    settings = TrainSettings.model_validate({"objective": "clip", "options": {}})
    assert not {"negatives", "prefixes"} & settings.identity()["options"].keys()


def test_prefixes_are_embeddings_of_their_own(small: Callable[..., Any]) -> None:
    """Each is normalised by itself: the loss is the mean of CLIP's over [:4], [:8] and all 16."""
    clip = build(small("clip", options={"prefixes": [8, 4, 8]}))
    found = clip.views(batch(6), torch.device("cpu"))
    loss, figures = clip(found, 0.0)
    with torch.no_grad():
        image = clip.model.encode_image(found["images"]).double().numpy()
        text = encode_text(clip.model, found["tokens"]).double().numpy()
    expected = []
    for width in (4, 8, 16):
        first = image[:, :width] / np.linalg.norm(image[:, :width], axis=1, keepdims=True)
        second = text[:, :width] / np.linalg.norm(text[:, :width], axis=1, keepdims=True)
        logits = first @ second.T / 0.07
        for rows in (logits, logits.T):
            logs = rows - np.log(np.exp(rows).sum(1, keepdims=True))
            expected.append(-np.diag(logs).mean() / 2)
        assert figures[f"loss_{width}"].item() == pytest.approx(sum(expected[-2:]), rel=1e-4)
    assert loss.item() == pytest.approx(sum(expected) / 3, rel=1e-4)


def test_a_prefix_longer_than_the_embedding_is_refused(small: Callable[..., Any]) -> None:
    with pytest.raises(SluiceError, match="embeddings of this model have 16 values"):
        build(small("clip", options={"prefixes": [8, 32]}))
    with pytest.raises(ValidationError, match="greater than 0"):
        ClipOptions.model_validate({"prefixes": [0]})


def test_a_run_loads_in_open_clip_and_sees_images_as_training_did(
    small: Callable[..., Any], pairs: str, tmp_path: Path
) -> None:
    settings = small("clip", steps=2)
    version = artifacts.load(pairs)
    assert version is not None
    draft = run_draft(str(tmp_path), "clip", settings, {"pairs": version.digest})
    run = train(draft, [Source(pairs)], settings, "local", SilentDisplay())
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{run.url}")
    tokens = open_clip.get_tokenizer(f"local-dir:{run.url}")(["a red picture"])
    assert model.encode_text(tokens).shape == (1, 16)
    parts = build(settings).parts
    assert model.state_dict().keys() == parts.model.state_dict().keys()
    pixels = np.random.default_rng(0).integers(64, 192, (48, 48, 3), dtype=np.uint8)
    whole = np.asarray([[0.0, 0.0, 1.0, 1.0]])
    mine = views.crop(torch.from_numpy(pixels)[None], whole, 32)
    mine = views.normalize(mine, parts.mean, parts.std)[0]
    assert torch.allclose(mine, preprocess(Image.fromarray(pixels)), atol=0.03)  # rounding to 8 bit
