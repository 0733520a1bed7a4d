"""A manifest is the same file as ever, its parts are a sequence, and few bytes a part in memory."""

import json
import pickle
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import artifacts
from infra.artifacts import MANIFEST, Part, Spec, commit, load, record_part
from infra.digests import digest
from infra.errors import SluiceError
from infra.filesystem import FilePart
from infra.manifest import Parts, read_manifest, write_manifest

SPEC = Spec("scores", "test", {"parts": ["\n }", {"parts": [{}]}]})
MANY = 1000

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
numbers = st.integers(0, 2**70) | st.floats()
values = st.recursive(
    numbers | texts | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
figures = st.dictionaries(texts, values, max_size=3)
files = st.builds(FilePart, texts, st.integers(0, 2**40), texts)


@st.composite
def drawn_parts(draw: st.DrawFn) -> list[Part]:
    names = sorted(draw(st.sets(st.from_regex(r"[0-9a-z]{1,6}", fullmatch=True), max_size=6)))
    found = []
    for name in names:
        kept, dropped = draw(st.integers(0, 9)), draw(st.dictionaries(texts, st.integers(0, 9)))
        own = tuple(draw(st.lists(files, max_size=3)))
        found.append(Part(name, own, kept + sum(dropped.values()), kept, dropped, draw(figures)))
    return found


def expected(parts: list[Part], extra: dict[str, Any]) -> bytes:
    """The file as one value makes it."""
    every = [file for part in parts for file in part.files]
    dropped = sum((Counter(part.dropped) for part in parts), Counter[str]())
    reasons = {reason for part in parts for reason in part.dropped}
    value = {
        "format": 1,
        "digest": SPEC.digest,
        "spec": SPEC.to_json(),
        "parts": [part.to_json() for part in parts],
        "totals": {
            "parts": len(parts),
            "rows": sum(part.rows for part in parts),
            "kept": sum(part.kept for part in parts),
            "dropped": {reason: dropped[reason] for reason in reasons},
            "bytes": sum(file.bytes for file in every),
        },
        "extra": extra,
        "content": digest([sorted((file.path, file.sha256) for file in every), extra]),
    }
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode()


@settings(max_examples=20)
@given(parts=drawn_parts(), extra=figures)
def test_any_parts_give_the_file_that_one_value_would_and_come_back(
    parts: list[Part], extra: dict[str, Any]
) -> None:
    held = Parts.of(parts)
    data = write_manifest(artifacts._head(SPEC, held, extra), held)
    assert data == expected(parts, extra)
    head, found = read_manifest("m", data)
    whole = json.loads(data)
    other = json.dumps(whole, indent=None).encode()  # laid out by somebody else
    for read in (read_manifest("m", data), read_manifest("m", other)):
        assert json.dumps(read[0]) == json.dumps({k: v for k, v in whole.items() if k != "parts"})
        assert repr(list(read[1])) == repr(list(map(Part.from_json, whole["parts"])))
    assert write_manifest(head, found) == data
    assert list(found.paths()) == [file.path for part in parts for file in part.files]


@settings(max_examples=20)
@given(parts=drawn_parts(), start=st.integers(-8, 8), stop=st.integers(-8, 8),
       step=st.integers(-3, 3).filter(bool))  # fmt: skip
def test_parts_are_a_sequence(parts: list[Part], start: int, stop: int, step: int) -> None:
    parts = [Part(part.name, part.files, part.rows, part.kept, part.dropped) for part in parts]
    held = Parts.of(parts)
    assert held == parts and list(held) == parts and len(held) == len(parts)
    assert bool(held) == bool(parts) and list(reversed(held)) == parts[::-1]
    cut = held[start:stop:step]
    assert isinstance(cut, Parts) and cut == parts[start:stop:step]
    assert pickle.loads(pickle.dumps(cut)) == cut
    for place in range(-8, 8):
        try:
            one = parts[place]
        except IndexError:
            with pytest.raises(IndexError):
                held[place]
        else:
            assert held[place] == one and held.index(one) == parts.index(one) and one in held
    assert held != [*parts, Part("more", ())] and held != 1


def test_a_slice_holds_no_more_text_than_its_own() -> None:
    held = Parts.of(Part(f"{number:05d}", ()) for number in range(1000))
    assert len(pickle.dumps(held[10:12])) < len(pickle.dumps(held)) / 50


def whole() -> bytes:
    parts = Parts.of(Part(f"{n}", (FilePart(f"p/{n}", 1, "ab"),), 1, 1) for n in range(3))
    return write_manifest(artifacts._head(SPEC, parts, {}), parts)


def test_of_a_file_cut_or_changed_at_any_byte_each_is_refused_or_what_json_reads() -> None:
    data = whole()
    for place in range(len(data)):
        with pytest.raises(SluiceError, match="is not JSON"):
            read_manifest("there", data[:place])
        for wrong in (b"", b"}", b"]", b",", b"\n ]", b"\n  },\n", b'"', b"\xff"):
            changed = data[:place] + wrong + data[place + 1 :]
            try:
                head, parts = read_manifest("there", changed)
            except SluiceError:
                with pytest.raises((ValueError, KeyError, AssertionError)):
                    read = json.loads(changed)
                    assert read["format"] == 1 and isinstance(read["parts"], list)
                continue
            text = [json.loads(str(piece, "utf-8")) for piece in parts.pieces()]
            assert {**head, "parts": text} == json.loads(changed)


@pytest.mark.parametrize(
    "text",
    [
        b'{"format": 1, "extra": {\n "parts": [\n  {\n  }\n ]}, "parts": []}',
        b'{"format": 1,\n "parts": [\n  {\n  },\n  {\n  }\n ], "parts": [{}]}',
        b'{"format": 1,\n "parts": [\n  {"a": [{\n  },\n  {}]}\n ]}',
        b'{"format": 1,\n "parts": [\n  {}, {\n  },\n  {"a": "\\u00e9"}\n ]}',
    ],
    ids=["within something else", "twice", "breaks within a part", "two in a line"],
)
def test_what_looks_like_our_layout_is_read_as_json_reads_it(text: bytes) -> None:
    head, parts = read_manifest("there", text)
    expected = json.loads(text)
    assert [json.loads(str(piece, "utf-8")) for piece in parts.pieces()] == expected.pop("parts")
    assert head == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"format": 1}', "no list of parts"),
        (b'{"format": 1, "parts": {}}', "no list of parts"),
        (b'{"format": 1, "parts": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "is not JSON"),
        (b'{"format": 1,\n "parts": [\n  ' + b"[" * 10**5 + b"\n ]}", "is not JSON"),
    ],
    ids=["none", "an object", "nested too deeply", "so within a part"],
)
def test_a_manifest_that_is_none_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(SluiceError, match=message):
        read_manifest("there", text)


def peak(do: Callable[[], object]) -> int:
    """The bytes that something takes at most beside what is there."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        do()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_many_parts_take_little_memory_beyond_the_text_of_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path)
    for number in range(MANY):
        name = f"{number:06d}"
        two = tuple(FilePart(f"{of}/{name}.bin", 9, f"{number:064x}") for of in ("rows", "shards"))
        record_part(url, Part(name, two, 5, 4, {"blank": 1}, {"mean": 0.5}), 1.0, 1.0)
    monkeypatch.setattr(artifacts, "TOGETHER", 64)  # as few of these as of 100,000
    commit_takes = peak(lambda: commit(url, SPEC, sweep=False))
    text = (tmp_path / MANIFEST).stat().st_size
    assert commit_takes < text + 1000 * MANY
    assert peak(lambda: load(url)) < text + 100 * MANY
    made = load(url)
    assert made is not None and made.totals["parts"] == MANY
    assert peak(lambda: sum(part.rows for part in made.parts)) < text + 100 * MANY
