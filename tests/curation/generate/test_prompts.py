"""Prompts: each once, hostile ones refused and counted, nothing lost on the way."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.generate.prompts import (
    ALL,
    FILE,
    SHOWN,
    Prompt,
    PromptsWork,
    choose,
    cleaned,
    distinct,
    prompts_draft,
    prompts_of,
)
from curation.generate.reasons import PROMPT_CONTROL_CHARACTERS, PROMPT_TOO_LONG
from curation.generate.settings import LONGEST, PromptSettings
from curation.scores.settings import TEMPLATES
from infra.artifacts import Artifact
from infra.errors import SluiceError
from tests.curation.conftest import Made, Maker
from tests.curation.sources.made import samples, tar_bytes


def make(maker: Maker, version: Made | None = None, **asked: Any) -> Artifact:
    settings = PromptSettings.model_validate(asked)
    place = (version.url, version.digest) if version else None
    draft = prompts_draft(maker.store, "pool", settings, place)
    return maker.run(draft, [ALL], PromptsWork(draft.url, settings, version and version.url))


def read(artifact: Artifact) -> list[Prompt]:
    return prompts_of(artifact, 0, artifact.parts[0].extra["prompts"])


def of_file(maker: Maker, folder: Path, data: bytes, **asked: Any) -> Artifact:
    file = folder / "prompts.txt"
    file.write_bytes(data)
    return make(maker, file=str(file), **asked)


def test_classes_alternate_in_every_template(maker: Maker) -> None:
    made = make(maker, classes=["cat", "dog"], templates=["a {}", "one {}."])
    assert read(made) == [
        Prompt("a cat", "cat"),
        Prompt("a dog", "dog"),
        Prompt("one cat.", "cat"),
        Prompt("one dog.", "dog"),
    ]
    assert [p.prompt for p in read(make(maker, classes=["cat"]))] == [
        each.replace("{}", "cat") for each in TEMPLATES
    ]


def test_captions_of_a_version_come_with_their_classes(maker: Maker) -> None:
    rows = [
        {"caption": "a  cat\n"},
        {"caption": "a cat"},
        {"caption": "never seen", "rejected": "not_an_image"},
        {"caption": "a dog"},
        {"caption": ""},
    ]
    version = maker.dataset("real", rows)
    made = make(maker, version, captions="real@latest")
    assert [each.prompt for each in read(made)] == ["a cat", "a dog"]
    assert made.totals["dropped"] == {"duplicate_prompt": 1}
    assert made.manifest["spec"]["parents"] == [version.digest]


def test_captions_of_a_source_come_with_their_classes(maker: Maker, tmp_path: Path) -> None:
    facts = [("0001.json", b'{"concept": "cat"}'), ("0002.json", b'{"concept": 7}')]
    (tmp_path / "0.tar").write_bytes(tar_bytes(sorted(samples(3) + facts)))
    made = make(maker, sources=[{"tars": str(tmp_path / "0.tar")}])
    captions = [Prompt("caption 0"), Prompt("caption 1", "cat"), Prompt("caption 2")]
    assert read(made) == captions
    text = tmp_path / "urls.csv"
    text.write_text("url,caption\nhttp://a.example/1.jpg,a cat\n")
    with pytest.raises(SluiceError, match="a table of text"):
        make(maker, sources=[{"urls": str(text)}])


def test_a_file_has_a_prompt_a_line(maker: Maker, tmp_path: Path) -> None:
    data = "\ufeffa cat\r\n\r\n  a  dog\t\nein Hündchen 👩‍🚀\na cat\nlast".encode()
    made = of_file(maker, tmp_path, data)
    assert [each.prompt for each in read(made)] == ["a cat", "a dog", "ein Hündchen 👩‍🚀", "last"]
    assert made.totals["dropped"] == {"duplicate_prompt": 1}


@pytest.mark.parametrize("data", [b"", b"\n \n\t\r\n", b"\x00\n", b"x" * (LONGEST + 1)])
def test_a_file_without_a_prompt_is_refused(maker: Maker, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SluiceError, match="no prompt to draw"):
        of_file(maker, tmp_path, data)


def test_a_file_that_is_not_utf8_is_refused_with_its_line(maker: Maker, tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match="not UTF-8: line 3 has the byte 0xfc"):
        of_file(maker, tmp_path, b"a cat\na dog\nein H\xfcndchen\n")
    with pytest.raises(SluiceError, match="not UTF-8: line 1"):
        of_file(maker, tmp_path, "a cat".encode("utf-16"))
    with pytest.raises(SluiceError, match="no prompt file"):
        make(maker, file=str(tmp_path / "none.txt"))


def test_hostile_lines_are_rejected_and_shown_harmless(maker: Maker, tmp_path: Path) -> None:
    longest = "é" * LONGEST
    lines = [
        "a cat", "an \x1b[2J escape", "a\x00b", "turned \u202eround", longest, longest + "é",
        "ü" * 5_000_000,
    ]  # fmt: skip
    made = of_file(maker, tmp_path, "\n".join(lines).encode())
    found = read(made)
    assert [each.reason for each in found] == [
        None, *[PROMPT_CONTROL_CHARACTERS] * 3, None, *[PROMPT_TOO_LONG] * 2,
    ]  # fmt: skip
    for each in found:
        assert not any(sign in each.prompt for sign in "\x00\x1b\u202e")
        assert len(each.prompt) <= (LONGEST if each.reason is None else SHOWN)
    totals = made.totals
    assert totals["rows"] == len(lines) == totals["kept"] + sum(totals["dropped"].values())
    assert totals["dropped"] == {PROMPT_CONTROL_CHARACTERS: 3, PROMPT_TOO_LONG: 2}


def test_a_limit_takes_the_prompts_of_lowest_hash(maker: Maker, tmp_path: Path) -> None:
    lines = [f"prompt {number}" for number in range(50)]
    made = of_file(maker, tmp_path, "\n".join(lines).encode(), limit=7)
    lowest = sorted(lines, key=lambda line: sha256(line.encode()).digest())[:7]
    assert [each.prompt for each in read(made)] == [line for line in lines if line in lowest]
    assert made.totals["dropped"] == {"not_chosen": 43}


@given(st.lists(st.text(max_size=8)), st.integers(1, 5))
def test_no_text_is_lost_and_none_comes_twice(texts: list[str], limit: int) -> None:
    prompts = [cleaned(text) for text in texts]
    found, tally = distinct(prompts)
    empty = sum(not each.prompt for each in prompts)
    assert len(found) + tally.total() + empty == len(texts)
    assert len({(each.prompt, each.reason) for each in found}) == len(found)
    chosen = choose(found, limit)
    assert len(chosen) == min(limit, len(found)) and set(chosen) <= set(found)
    for each in found:
        each.prompt.encode()  # no lone surrogate is left


def test_the_digest_is_of_what_is_asked_for_and_not_of_where(maker: Maker, tmp_path: Path) -> None:
    def digest(file: Path, **asked: Any) -> str:
        settings = PromptSettings.model_validate({"file": str(file), **asked})
        return prompts_draft(maker.store, "pool", settings, None).spec.digest

    here, there = tmp_path / "a.txt", tmp_path / "b.txt"
    here.write_text("a cat\n")
    there.write_text("a cat\n")
    assert digest(here) == digest(there) != digest(here, limit=3)
    there.write_text("a dog\n")
    assert digest(here) != digest(there)


def test_a_piece_of_the_prompts_is_read_alone(tmp_path: Path) -> None:
    prompts = [Prompt(f"prompt {number}", None, None) for number in range(10)]
    table = pa.table(list(map(pa.array, zip(*prompts, strict=True))), names=list(Prompt._fields))
    pq.write_table(table, tmp_path / FILE, row_group_size=3)
    artifact = Artifact(str(tmp_path), {})
    for first in range(10):
        for last in range(first, 11):
            assert prompts_of(artifact, first, last) == prompts[first:last]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({}, "give prompts"),
        ({"classes": ["cat"], "templates": ["a cat"]}, "needs one {}"),
        ({"classes": [" "]}, "1 to 2000 characters"),
        ({"classes": ["cat"], "limit": 0}, "greater than 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        PromptSettings.model_validate(wrong)
