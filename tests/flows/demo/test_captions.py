import re

from flows.demo import captions, photos
from infra.digests import generator

FIGURES = "0123456789"


def test_every_photo_has_nouns() -> None:
    assert set(captions.NOUNS) == set(photos.PHOTOS)


def test_a_digit_caption_names_its_digit_and_no_other() -> None:
    for digit, word in enumerate(captions.DIGITS):
        for number in range(60):
            text = captions.digit_caption(digit, "red", "white", generator(digit, number))
            words = set(re.findall(r"\w+", text))
            assert words & {word, FIGURES[digit]}
            assert not words & ({*captions.DIGITS, *FIGURES} - {word, FIGURES[digit]})


def test_photo_captions_vary_and_keep_to_their_concept() -> None:
    for concept, nouns in captions.NOUNS.items():
        texts = {
            captions.photo_caption(concept, zoom, generator(concept, number))
            for zoom in (0.2, 0.5, 0.9)
            for number in range(40)
        }
        assert len(texts) > 20
        assert all(any(noun in text for noun in nouns) for text in texts)


def test_close_ups_are_called_so() -> None:
    def texts(zoom: float) -> str:
        return " ".join(captions.photo_caption("cat", zoom, generator(n)) for n in range(80))

    assert "close" in texts(0.2) and "close" not in texts(0.5)
    assert "wide" in texts(0.9) and "wide" not in texts(0.5)
