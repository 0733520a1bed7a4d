import io
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra import artifacts
from infra.artifacts import Spec
from infra.errors import SluiceError
from pretrain import meta
from pretrain.data import Ahead, Batch, Source, Stream
from pretrain.decoded import decode
from pretrain.order import Order


def stream(*sources: Source, **changes: Any) -> Stream:
    settings: dict[str, Any] = {
        "batch": 8,
        "canvas": 16,
        "shuffle": 40,
        "seed": 0,
        "cache_mib": 1,
        "threads": 2,
    }
    return Stream(sources, **{**settings, **changes})


def take(source: Stream, count: int, state: Any = None) -> list[Batch]:
    return list(islice(source.batches(state or source.start()), count))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 40), st.integers(0, 3))
def test_an_epoch_visits_every_sample_once(counts: list[int], shuffle: int, epoch: int) -> None:
    order = Order(counts, shuffle, ("key",))
    start = epoch * order.total
    visited = [order[start + place] for place in range(order.total)]
    expected = [(shard, index) for shard, count in enumerate(counts) for index in range(count)]
    assert sorted(visited) == expected


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 40), st.data())
def test_a_position_alone_decides(counts: list[int], shuffle: int, data: st.DataObject) -> None:
    """Whatever was asked for before, the same position is the same sample."""
    order = Order(counts, shuffle, ("key",))
    places = data.draw(st.lists(st.integers(0, 3 * order.total), max_size=8))
    for place in places:
        assert order[place] == Order(counts, shuffle, ("key",))[place]


def test_a_window_holds_few_shards_and_shuffles_them() -> None:
    order = Order([10] * 20, shuffle=30, key=("key",))
    first = [order[place] for place in range(30)]
    assert {shard for shard, _ in first} == set(order.window.shards)
    assert len(order.window.shards) == 3
    assert first != sorted(first)
    assert [order[place] for place in range(200)] != [order[place] for place in range(200, 400)]


def test_the_seed_changes_the_order(pairs: str) -> None:
    ids = [take(stream(Source(pairs), seed=seed), 1)[0].ids.tolist() for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_going_on_from_any_batch_gives_the_same_samples(pairs: str, greys: str) -> None:
    mix = (Source(pairs, 0.7), Source(greys, 0.3))
    whole = take(stream(*mix), 12)
    for stop in (0, 4, 10):
        rest = take(stream(*mix), 11 - stop, whole[stop].state)
        for one, other in zip(whole[stop + 1 :], rest, strict=True):
            assert one.ids.tolist() == other.ids.tolist()
            assert one.sources.tolist() == other.sources.tolist()
            assert one.captions == other.captions
            assert np.array_equal(one.images, other.images)
            assert (one.places[0], one.state) == (other.places[0], other.state)


def test_sources_are_mixed_by_sample_mass(pairs: str, greys: str) -> None:
    mixed = stream(Source(pairs, 7), Source(greys, 3))
    batches = take(mixed, 20)
    greyish = mixed.digests.index(artifacts.load(greys).digest)  # type: ignore[union-attr]
    for count, batch in enumerate(batches, 1):
        share = batch.state["taken"][greyish] / (8 * count)
        assert abs(share - 0.3) <= 1 / (8 * count)
        assert sum(batch.state["taken"]) == 8 * count
    assert batches[5].places.tolist() == [*range(40, 48)]


def test_the_order_of_the_sources_does_not_matter(pairs: str, greys: str) -> None:
    one = take(stream(Source(pairs, 2), Source(greys, 1)), 3)
    other = take(stream(Source(greys, 1), Source(pairs, 2)), 3)
    assert [b.ids.tolist() for b in one] == [b.ids.tolist() for b in other]


def test_a_damaged_image_is_skipped_counted_and_named(greys: str) -> None:
    batches = take(stream(Source(greys)), 6)  # 48 samples: twice the 23 good ones, and two more
    seen = Counter(caption for batch in batches for caption in batch.captions)
    assert "grey 5" not in seen
    assert min(seen.values()) == 2
    assert len(seen) == 23
    state = batches[-1].state
    assert state["skipped"] == [2]
    (name,) = state["bad"]
    assert name.startswith("greys:")


def test_a_truncated_shard_is_skipped_counted_and_named(pairs: str, tmp_path: Path) -> None:
    url = str(shutil.copytree(pairs, tmp_path / "cut"))
    tar = tmp_path / "cut" / "shards" / "00002.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    batches = take(stream(Source(url)), 11)  # 88 samples: twice the 44 of the three good shards
    seen = Counter(identifier for batch in batches for identifier in batch.ids.tolist())
    assert len(seen) == 44 and set(seen.values()) == {2}
    assert batches[-1].state["bad"] == ["cut:00002.tar"]
    assert batches[-1].state["skipped"] == [32]


def test_a_source_that_never_decodes_is_an_error(broken: str) -> None:
    with pytest.raises(SluiceError, match=r"no sample of .* can be decoded"):
        take(stream(Source(broken)), 1)


def test_empty_and_missing_sources_and_mixes(tmp_path: Path, pairs: str) -> None:
    artifacts.record_part(str(tmp_path), artifacts.Part("00000", (), 3, 0, {"blank": 3}), 0, 0)
    empty = artifacts.commit(str(tmp_path), Spec("dataset", "test"))
    with pytest.raises(SluiceError, match=r"has no samples .* \(3 rows, none kept\)"):
        stream(Source(empty.url))
    with pytest.raises(SluiceError, match="no dataset version at"):
        stream(Source(str(tmp_path / "nowhere")))
    for weights in ((0.0,), (1.0, -1.0)):
        with pytest.raises(SluiceError, match="sums to nothing"):
            stream(*(Source(pairs, weight) for weight in weights))
    with pytest.raises(SluiceError, match="sums to nothing"):
        stream()


def test_a_cache_without_room_changes_nothing(pairs: str) -> None:
    with_room, without = (take(stream(Source(pairs), cache_mib=mib), 10) for mib in (4, 0))
    for one, other in zip(with_room, without, strict=True):
        assert np.array_equal(one.images, other.images)


def test_decode_squeezes_and_tells_the_size() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (40, 10), (250, 0, 0, 255)).save(buffer, "PNG")
    pixels, size = decode(buffer.getvalue(), 16)
    assert pixels.shape == (16, 16, 3)
    assert size == (10, 40)
    assert (pixels == (250, 0, 0)).all()


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_decode_refuses_what_is_no_image(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data, 16)


def test_decode_refuses_a_bomb_by_its_header() -> None:
    buffer = io.BytesIO()
    Image.new("1", (2**13, 2**13 + 1)).save(buffer, "PNG")
    with pytest.raises(ValueError, match="8192 x 8193 pixels"):
        decode(buffer.getvalue(), 16)


def test_an_error_in_the_thread_reaches_the_reader() -> None:
    def items() -> Iterator[Any]:
        yield 1
        raise SluiceError("broken", "mend")

    ahead = Ahead(items(), 2)
    assert ahead.next() == 1
    with pytest.raises(SluiceError, match="broken"):
        ahead.next()
    ahead.close()


def test_closing_stops_an_endless_source(pairs: str) -> None:
    source = stream(Source(pairs))
    ahead = Ahead(source.batches(source.start()), 2)
    assert len(ahead.next().captions) == 8
    ahead.close()
    assert not ahead._thread.is_alive()


def test_the_samples_own_fields_come_along_where_they_are_asked_for(pairs: str, greys: str) -> None:
    sources = Source(pairs, 0.7), Source(greys, 0.3)
    plain = stream(*sources)
    told = stream(*sources, texts=True)
    for one, two in zip(take(plain, 12), take(told, 12), strict=True):
        assert one.captions == two.captions
        assert (one.ids == two.ids).all()
        assert one.meta == []
        assert [fields["caption"] for fields in two.meta] == two.captions
    colours = {caption.split()[0] for caption in two.captions}
    labels = {meta.label(fields, "concept") for fields in two.meta}
    assert labels == {name if name != "grey" else "" for name in colours}


@pytest.mark.parametrize("text", [None, "", "nonsense", "[1]", "{}"])
def test_a_sample_without_fields_has_none(text: str | None) -> None:
    assert meta.label(meta.parse(text), "concept") == ""
