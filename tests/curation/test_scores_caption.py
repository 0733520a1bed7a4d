"""Re-captioning by whole small models of four kinds: what they write, alone and beside others."""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from curation.decode import Pixels
from curation.score import Batch, NetworkScorer, ScoreWork, score_draft
from curation.scores.caption import LONGEST, CaptionScorer, clean
from curation.scores.captioner import Captioner, Noise, probabilities
from curation.scores.clip import ClipScorer
from curation.scores.reference import Given, Reference
from curation.scores.registry import chosen_scorer
from curation.scores.settings import CaptionSettings
from infra.dataset import read_table
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.stage import Item, run_stage
from tests.curation import captioners
from tests.curation.test_score import make, picture

KINDS = tuple(captioners.EVERY)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("captioners")
    return {kind: make(folder) for kind, make in captioners.EVERY.items()}


def noise(count: int) -> list[Pixels]:
    rng = np.random.default_rng(0)
    sizes = [(40 + 8 * number, 48) for number in range(count)]
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]


def scored(
    scorer: CaptionScorer, images: Sequence[Pixels | None], uids: Sequence[str]
) -> list[dict[str, Any]]:
    rows = pa.table({"uid": pa.array(uids, pa.string())})
    return scorer.score(Batch(rows, images, [None] * len(images))).columns.to_pylist()


def asked(**changes: Any) -> CaptionScorer:
    return replace(CaptionScorer("new", "", max_tokens=6), **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_depends_on_its_own_image(kind: str, folders: dict[str, Path]) -> None:
    scorer = asked(model=str(folders[kind]))
    assert isinstance(scorer, NetworkScorer)
    images, uids = [*noise(2), None], ["a", "b", "c"]
    ways: list[dict[str, Any]] = [{}, {"beams": 2}, {"temperature": 1.0}, {"prompt": "a photo of"}]
    found = []
    for way in ways:
        chosen = replace(scorer, **way)
        together = scored(chosen, images, uids)
        order = [1, 2]
        again = scored(chosen, [images[at] for at in order], [uids[at] for at in order])
        assert again == [together[at] for at in order]
        assert set(together[2].values()) == {None}
        for row in together[:2]:
            words = (row["caption"] or "").split()
            assert set(words) <= {*captioners.WORDS, "<image>"}
            assert len(words) == row["tokens"] <= 6
            assert row["confidence"] is None if not words else 0 < row["confidence"] <= 1
        found.append([row["caption"] for row in together[:2]])
    assert any(found[0]) and found[0] != found[2] and found[0] != found[3]


def test_the_likeliest_tokens_are_taken_and_how_likely_they_are(folders: dict[str, Path]) -> None:
    """Against token after token without any memory of those before."""
    captioner = Captioner.load(str(folders["encoder_decoder"]), "float32")
    special = captioner.tokenizer.all_special_ids
    for image in noise(3):
        (found,) = captioner.write([image], ["a"], asked())
        pixels = captioner.processor(images=image, return_tensors="pt")["pixel_values"]
        ids, sure = [2], []
        for _ in range(6):
            logits = captioner.model(pixels, decoder_input_ids=torch.tensor([ids])).logits
            best = logits[0, -1].log_softmax(-1).max(0)
            ids.append(int(best.indices))
            if ids[-1] == 3:
                break
            sure += [float(best.values)] if ids[-1] not in special else []
        words = [captioner.tokenizer.decode([each]) for each in ids if each not in special]
        assert (found.text.split(), found.tokens) == (words, len(words))
        assert found.confidence == pytest.approx(np.exp(np.mean(sure)), rel=1e-4)


def test_beams_know_how_likely_their_tokens_are(folders: dict[str, Path]) -> None:
    captioner = Captioner.load(str(folders["encoder_decoder"]), "float32")
    crossed = 0
    for image in noise(6):
        watch = Noise(["a"], asked())
        pixels = captioner.processor(images=image, return_tensors="pt")["pixel_values"]
        made = captioner.model.generate(
            pixel_values=pixels, num_beams=4, max_new_tokens=8, logits_processor=[watch],
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        ids = made.sequences
        found = probabilities(ids[:, watch.start :], made.logits, made.beam_indices)
        logits = captioner.model(pixels, decoder_input_ids=ids).logits[0, :-1].log_softmax(-1)
        end = int((made.beam_indices >= 0).sum())
        expected = logits.gather(1, ids[0, 1:, None])[:end, 0]
        torch.testing.assert_close(found[0, :end], expected, rtol=1e-4, atol=1e-4)
        crossed += int((made.beam_indices > 0).any())
    assert crossed


def test_tokens_are_drawn_as_often_as_they_are_likely(folders: dict[str, Path]) -> None:
    captioner = Captioner.load(str(folders["encoder_decoder"]), "float32")
    captioner.chunk = 100
    image, temperature, count = noise(1)[0], 2.0, 400
    pixels = captioner.processor(images=image, return_tensors="pt")["pixel_values"]
    logits = captioner.model(pixels, decoder_input_ids=torch.tensor([[2]])).logits[0, -1]
    shares = (logits / temperature).softmax(-1).numpy()
    one = asked(max_tokens=1, temperature=temperature)
    drawn = captioner.write([image] * count, [f"{number}" for number in range(count)], one)
    for place, word in enumerate(captioners.WORDS, len(captioners.SPECIAL)):
        share = sum(each.text == word for each in drawn) / count
        assert abs(share - shares[place]) < 4 * np.sqrt(shares[place] / count) + 0.005


def test_draws_are_keyed_by_seed_and_uid() -> None:
    def drawn(uid: str, seed: int) -> list[float]:
        noise = Noise(["x", uid], asked(temperature=1.0, seed=seed))
        return noise(torch.zeros(2, 1), torch.zeros(2, 5))[1].tolist()

    assert drawn("a", 0) == drawn("a", 0)
    assert drawn("a", 0) != drawn("b", 0) and drawn("a", 0) != drawn("a", 1)
    plain = torch.arange(5.0)[None]
    assert Noise(["a"], asked())(torch.zeros(1, 1), plain) is plain


def test_what_does_not_fit_is_halved(folders: dict[str, Path]) -> None:
    one, many = (Captioner.load(str(folders["blip"]), "float32") for _ in range(2))
    many.chunk = 8
    generate, sizes = many.model.generate, []

    def scarce(**inputs: Any) -> Any:
        sizes.append(len(inputs["pixel_values"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("out of memory")
        return generate(**inputs)

    many.model.generate = scarce
    images, uids = noise(5), list("abcde")
    expected, found = one.write(images, uids, asked()), many.write(images, uids, asked())
    assert (many.chunk, sizes) == (2, [8, 4, 2, 2, 2])
    assert [each.text for each in found] == [each.text for each in expected]
    sure = [[each.confidence for each in every] for every in (found, expected)]
    assert sure[0] == pytest.approx(sure[1], rel=1e-4)

    def none(**inputs: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    many.model.generate = none
    with pytest.raises(SluiceError, match="one image does not fit into the memory of cpu"):
        many.write(images, uids, asked())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("  a\tcat\n\non \u00a0a mat ", "a cat on a mat"),
        ("a\x00\x1b[31mcat\u202e\ufeff", "a [31mcat"),
        ("\ud800", ""),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("ab " * 2000, ("ab " * 2000)[:LONGEST].strip()),
        ("", ""),
    ],
)
def test_a_caption_is_one_clean_line(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_what_it_is_made_of_is_told_and_not_where_it_lies(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders["git"]
    copy = shutil.copytree(folder, tmp_path / "copy")
    here, there = (asked(model=str(each)) for each in (folder, copy))
    assert here.settings() == there.settings() == replace(here, seed=3).settings()
    assert str(folder) not in json.dumps(here.settings())
    changes: list[dict[str, Any]] = [
        {"prompt": "a"}, {"beams": 2}, {"max_tokens": 7}, {"precision": "bfloat16"},
        {"temperature": 1.0}, {"temperature": 1.0, "seed": 3},
    ]  # fmt: skip
    other = asked(model=str(captioners.git(tmp_path, seed=1)))
    stated = [replace(here, **each).settings() for each in changes]
    stated += [here.settings(), other.settings()]
    assert len({json.dumps(each) for each in stated}) == len(stated)


def test_a_recipe_asks_for_it() -> None:
    settings = CaptionSettings(kind="caption", model="folder", prompt="a", precision="float32")
    given = Given(ClipScorer("none"), Reference("pool/v", "clip-0"), None)
    assert chosen_scorer("blip", settings, given) == CaptionScorer("blip", "folder", "a")
    assert settings.runs_network
    with pytest.raises(ValueError, match="temperature draws one"):
        CaptionSettings(kind="caption", model="folder", beams=2, temperature=1.0)


def test_what_is_no_captioner_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def load(folder: Path) -> Captioner:
        return Captioner.load(str(folder), "float32")

    with pytest.raises(SluiceError, match="no folder of this machine"):
        load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SluiceError, match="cannot load the captioner"):
        load(tmp_path / "empty")
    pickled = Path(shutil.copytree(folders["blip"], tmp_path / "pickled"))
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(SluiceError, match="cannot load the captioner"):
        load(pickled)
    broken = Path(shutil.copytree(folders["blip"], tmp_path / "broken"))
    state = load_file(broken / "model.safetensors")
    state.pop(sorted(state)[-1])
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(SluiceError, match="are not whole"):
        load(broken)
    bare = Path(shutil.copytree(folders["blip"], tmp_path / "bare"))
    for name in ("processor_config.json", "preprocessor_config.json"):
        (bare / name).unlink(missing_ok=True)
    with pytest.raises(SluiceError, match="cannot load the captioner"):
        load(bare)
    mute = Path(shutil.copytree(folders["blip"], tmp_path / "mute"))
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (mute / name).unlink(missing_ok=True)
    with pytest.raises(SluiceError, match="no tokenizer, or one without a vocabulary"):
        load(mute)
    with pytest.raises(SluiceError, match="is a path here"):
        load(Path(f"hf-hub:{tmp_path}"))
    text = tmp_path / "text"
    GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1)).save_pretrained(text)
    captioners.tokenizer().save_pretrained(text)
    with pytest.raises(SluiceError, match="cannot load the captioner"):
        load(text)


def test_weights_that_are_no_numbers_are_told(folders: dict[str, Path]) -> None:
    captioner = Captioner.load(str(folders["git"]), "float32")
    next(captioner.model.parameters()).data.fill_(torch.nan)
    with pytest.raises(SluiceError, match="probabilities that are not numbers"):
        captioner.write(noise(1), ["a"], asked())


def test_a_killed_run_goes_on_and_the_captions_of_samples_stay(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Shard by shard; what samples came with is not touched."""
    shards = [[picture(0), None, picture(90)], [picture(200), b"no image"]]
    urls = [make(tmp_path / name, shards) for name in ("whole", "stopped")]
    before = [read_table(f"{url}/rows/00000.parquet") for url in urls]
    scorer = asked(model=str(folders["git"]))
    made: list[tuple[str, list[str]]] = []

    def run(url: str, fails: int | None = None) -> Any:
        draft = score_draft(url, url.rpartition("/")[2], scorer)
        score = ScoreWork(url, {scorer.name: scorer})

        def work(value: int, todo: list[str]) -> Any:
            if value == fails:
                raise KeyboardInterrupt
            made.append((url, [f"{value}"]))
            return score(value, todo)

        items = [Item(f"{shard:05d}", shard) for shard in range(2)]
        drafts = {scorer.name: draft}
        return run_stage("x", drafts, items, work, InlineRunner(), SilentDisplay())[scorer.name]

    whole = run(urls[0])
    with pytest.raises(KeyboardInterrupt):
        run(urls[1], fails=1)
    again = run(urls[1])
    assert [shard for url, (shard,) in made if url == urls[1]] == ["0", "1"]
    assert again.content == whole.content
    rows = [
        row
        for shard in range(2)
        for row in read_table(f"{again.url}/columns/{shard:05d}.parquet").to_pylist()
    ]
    assert [row["tokens"] is None for row in rows] == [False, True, False, False, True]
    for url, table in zip(urls, before, strict=True):
        assert read_table(f"{url}/rows/00000.parquet") == table


@pytest.mark.parametrize("kind", ["blip", "llava"])
def test_a_lower_precision_writes_too(kind: str, folders: dict[str, Path]) -> None:
    captioner = Captioner.load(str(folders[kind]), "bfloat16")
    assert captioner.model.dtype == torch.bfloat16
    found = captioner.write(noise(2), ["a", "b"], asked(max_tokens=3))
    assert all(each.tokens <= 3 and 0 <= each.confidence <= 1 for each in found)


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SluiceError, match=r"transformers is not installed.*\n.*sluice\[generate\]"):
        Captioner.load("hf-hub:some/model", "float32")
