"""Drawing by whole pipelines of diffusers: what an image depends on, and what goes wrong."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from curation.generate import pipeline as module
from curation.generate.model import INDEX, find_model, fingerprint
from curation.generate.pipeline import Drawn, TextToImage, load
from curation.generate.reasons import BLANK_IMAGE, NOT_FINITE, PIPELINE_FAILED, UNSAFE
from curation.generate.settings import GenerateSettings
from infra.errors import SluiceError
from tests.curation.generate import tiny

ASKED = {"prompts": {"classes": ["cat"]}, "guidance_scale": 3, "steps": 2}
WANTED = [(f"a {name}", seed) for seed, name in enumerate(("cat", "dog", "tree", "house", "car"))]


def loaded(folder: Path, **asked: Any) -> TextToImage:
    """The pipeline, loaded anew."""
    settings = GenerateSettings.model_validate({**ASKED, "model": str(folder), **asked})
    module._kept.cache_clear()
    return load(find_model(str(folder), None, settings.safety), settings, "float32")


@pytest.fixture(scope="module")
def drawing(diffusion: Path) -> TextToImage:
    return loaded(diffusion)


def images(drawn: Sequence[Drawn]) -> list[bytes]:
    found = [each.image for each in drawn if each.image is not None]
    assert len(found) == len(drawn), [each.reason for each in drawn]
    return [image.tobytes() for image in found]


def drawn(drawing: TextToImage, wanted: Sequence[tuple[str, int]] = WANTED) -> list[bytes]:
    return images(list(drawing.draw(wanted)))


def test_an_image_depends_on_its_prompt_and_seed_alone(drawing: TextToImage) -> None:
    together = drawn(drawing)
    assert len(set(together)) == len(WANTED)
    assert drawn(drawing, WANTED[::-1]) == together[::-1]
    assert [drawn(drawing, [each])[0] for each in WANTED] == together
    assert drawn(drawing, [*WANTED[3:], *WANTED[:3]]) == [*together[3:], *together[:3]]
    other_seed, other_prompt = drawn(drawing, [("a cat", 7), ("a cow", 0)])
    assert together[0] not in (other_seed, other_prompt)


def test_the_same_pipeline_elsewhere_draws_the_same(diffusion: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(diffusion, tmp_path / "copy")
    assert drawn(loaded(copy)) == drawn(loaded(diffusion))


@pytest.mark.parametrize(
    "change",
    [
        {"guidance_scale": 1.5},
        {"steps": 3},
        {"negative_prompt": "a blurred picture"},
        {"scheduler": "EulerAncestralDiscreteScheduler"},
        {"size": [48, 32]},
        {"options": {"guidance_rescale": 0.7}},
    ],
)
def test_what_is_told_of_an_image_changes_it(
    diffusion: Path, drawing: TextToImage, change: dict[str, Any]
) -> None:
    changed = loaded(diffusion, **change)
    (before,), (after,) = (list(each.draw(WANTED[:1])) for each in (drawing, changed))
    assert images([before]) != images([after])
    assert images([after]) == images(list(changed.draw(WANTED[:1])))
    told, was = changed.told(after), drawing.told(before)
    (key,) = change
    assert told[key] != was[key]
    assert {name for name in told if told[name] != was[name]} == {key}


def test_another_architecture_needs_nothing_else(tmp_path: Path) -> None:
    folder = tiny.transformer(tmp_path)
    with pytest.raises(SluiceError, match=r"StableDiffusion3Pipeline\) has no safety checker"):
        loaded(folder)
    drawing = loaded(folder, safety=False)
    together = drawn(drawing)
    assert [drawn(drawing, [each])[0] for each in WANTED] == together
    assert len(set(together)) == len(WANTED)
    assert drawing.told(None)["pipeline"] == "StableDiffusion3Pipeline"


def test_what_the_checker_flags_is_no_image(tmp_path: Path) -> None:
    folder = tiny.diffusion(tmp_path, refuses=True)
    found = list(loaded(folder).draw(WANTED))
    assert [each.reason for each in found] == [UNSAFE] * len(WANTED)
    assert all(each.image is None for each in found)
    unchecked = loaded(folder, safety=False)
    assert len(set(drawn(unchecked))) == len(WANTED)


def short_of_memory(drawing: TextToImage, room: int) -> list[int]:
    """Let the network fail above `room` images, as a GPU does; the sizes that it was given."""
    seen: list[int] = []

    def hook(network: Any, given: Any) -> None:
        count = len(given[0]) // 2  # guided: each image twice
        seen.append(count)
        if count > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    drawing.pipeline.unet.register_forward_pre_hook(hook)
    return seen


def test_where_memory_is_short_fewer_are_drawn_at_once(diffusion: Path) -> None:
    one_by_one = drawn(loaded(diffusion, chunk=1))
    drawing = loaded(diffusion, chunk=4)
    seen = short_of_memory(drawing, 1)
    found = list(drawing.draw(WANTED))
    assert images(found) == one_by_one
    assert [each.chunk for each in found] == [1] * len(WANTED)
    assert [count for count in seen if count > 1] == [4, 2]  # never again
    assert drawing.told(found[0])["chunk"] == 1
    seen.clear()
    again = load(drawing.model, drawing.settings, "float32")  # as for the next shard
    assert images(list(again.draw(WANTED[:1]))) == one_by_one[:1]
    assert max(seen) == 1


def test_where_one_image_is_too_large_the_run_stops(diffusion: Path) -> None:
    drawing = loaded(diffusion)
    short_of_memory(drawing, 0)
    with pytest.raises(SluiceError, match="one image does not fit into the memory of cpu") as why:
        list(drawing.draw(WANTED))
    assert "lower run.workers" in why.value.way_out


def test_numbers_that_are_none_and_empty_images_are_told_apart(diffusion: Path) -> None:
    broken = loaded(diffusion)
    broken.pipeline.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    assert [each.reason for each in broken.draw(WANTED)] == [NOT_FINITE] * len(WANTED)
    blank = loaded(diffusion)
    blank.pipeline.vae.decoder.conv_out.weight.data.zero_()
    assert [each.reason for each in blank.draw(WANTED)] == [BLANK_IMAGE] * len(WANTED)


def test_a_prompt_that_the_pipeline_fails_at_costs_itself_alone(diffusion: Path) -> None:
    whole = drawn(loaded(diffusion))
    drawing = loaded(diffusion)
    encode = drawing.pipeline.encode_prompt

    def fails(prompt: list[str], *rest: Any, **more: Any) -> Any:
        if "a dog" in prompt:
            raise ValueError("this tokenizer knows no dogs")
        return encode(prompt, *rest, **more)

    drawing.pipeline.encode_prompt = fails
    found = list(drawing.draw(WANTED))
    assert found[1].image is None and found[1].reason == PIPELINE_FAILED
    assert images([each for each in found if each.reason is None]) == whole[:1] + whole[2:]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"size": [33, 32]}, "draws nothing with these settings: ValueError.*divisible by 8"),
        ({"scheduler": "FlowMatchEulerDiscreteScheduler"}, "is no scheduler for this pipeline"),
        ({"scheduler": "UNet2DModel"}, "is no scheduler for this pipeline"),
        ({"options": {"true_cfg_scale": 2}}, "takes no true_cfg_scale"),
    ],
)
def test_settings_that_do_not_fit_stop_the_run(
    diffusion: Path, asked: dict[str, Any], why: str
) -> None:
    with pytest.raises(SluiceError, match=why):
        list(loaded(diffusion, **asked).draw(WANTED))


def weights(folder: Path, part: str) -> Path:
    (file,) = (folder / part).glob("*.safetensors")
    return file


def without_a_tensor(folder: Path, part: str) -> None:
    state = load_file(weights(folder, part))
    del state[sorted(state)[3]]
    save_file(state, weights(folder, part), {"format": "pt"})


def of_another_shape(folder: Path) -> None:
    state = load_file(weights(folder, "unet"))
    state[sorted(state)[3]] = torch.zeros(3)
    save_file(state, weights(folder, "unet"), {"format": "pt"})


def cut(folder: Path) -> None:
    file = weights(folder, "vae")
    file.write_bytes(file.read_bytes()[:-100])


def other_task(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["_class_name"] = "DDIMPipeline"
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (
            lambda each: without_a_tensor(each, "unet"),
            "the weights of tiny-diffusion are not whole",
        ),
        (lambda each: without_a_tensor(each, "text_encoder"), "are not whole"),
        (of_another_shape, "cannot load the pipeline tiny-diffusion.*shape"),
        (cut, "cannot load the pipeline"),
        (other_task, "cannot load the pipeline|does not make images of text alone"),
    ],
)
def test_a_pipeline_that_is_not_whole_is_refused_before_it_draws(
    diffusion: Path, tmp_path: Path, harm: Callable[[Path], None], why: str
) -> None:
    folder = Path(shutil.copytree(diffusion, tmp_path / diffusion.name))
    harm(folder)
    with pytest.raises(SluiceError, match=why):
        loaded(folder)


def test_a_repository_in_the_cache_is_drawn_with_without_a_network(
    diffusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "models--owner--name"
    shutil.copytree(diffusion, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for place in ("indexes.hub", "curation.generate.pipeline"):
        monkeypatch.setattr(f"{place}.hub_reachable", lambda: False)
    settings = GenerateSettings.model_validate({**ASKED, "model": "hf-hub:owner/name"})
    drawing = load(find_model(settings.model, None, True), settings, "float32")
    assert drawn(drawing, WANTED[:1]) == drawn(loaded(diffusion), WANTED[:1])
    assert drawing.told(None)["model"] == "owner/name"
    assert drawing.fingerprint == fingerprint(diffusion)
    (cache / "snapshots" / commit / "unet" / "config.json").unlink()
    module._kept.cache_clear()
    with pytest.raises(SluiceError, match=r"owner/name|cannot"):
        load(find_model(settings.model, None, True), settings, "float32")


def test_a_folder_that_changed_since_the_plan_is_refused(diffusion: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(diffusion, tmp_path / diffusion.name))
    settings = GenerateSettings.model_validate({**ASKED, "model": str(folder)})
    model = find_model(str(folder), None, True)
    without_a_tensor(folder, "unet")
    with pytest.raises(SluiceError, match="is not what it was when the run was planned"):
        load(model, settings, "float32")


def test_images_are_numbers_of_eight_bits(drawing: TextToImage) -> None:
    (found,) = drawing.draw(WANTED[:1])
    assert found.image is not None
    assert found.image.dtype == np.uint8 and found.image.shape == (tiny.SIDE, tiny.SIDE, 3)
