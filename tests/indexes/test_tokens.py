import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from indexes import tokens
from indexes.tokens import Tokens

PLAIN = SimpleTokenizer(context_length=12)
ODD = st.sampled_from(
    ["it's", "3.14", "&amp;", "<end_of_text>", "a\tb", "â€œquoted", "don't!!", "\x1b[1m", "İ", "#1"]
)
TEXTS = st.lists(st.one_of(st.text(max_size=20), st.text("aB' .,&<>_-1", max_size=30), ODD))


@given(st.lists(TEXTS.map(" ".join), max_size=5))
@example(["", " ", "word " * 500, "Two  spaces", "a b c d e f g h i j k l m n"])
@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_are_open_clips_own(clean: str, texts: list[str]) -> None:
    tokenizer = SimpleTokenizer(context_length=12, clean=clean)
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    expected = tokenizer(texts) if texts else torch.zeros(0, 12, dtype=torch.long)
    assert torch.equal(Tokens(tokenizer)(texts), expected)


def test_no_more_words_are_remembered_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "WORDS", 3)
    texts = [f"{number} cats and {number + 1} dogs" for number in range(9)]
    found = Tokens(PLAIN)
    assert torch.equal(found(texts), PLAIN(texts))
    assert torch.equal(found(texts), PLAIN(texts))


def test_another_tokenizer_is_left_alone() -> None:
    masked = SimpleTokenizer(context_length=12, reduction_mask="simple")
    assert torch.equal(Tokens(masked)(["a cat"]), masked(["a cat"]))


@pytest.mark.parametrize("length", [10, 11])
def test_a_text_that_would_be_cut_does_not_fit(length: int) -> None:
    assert Tokens(PLAIN).fits("cat " * length) == (length + 2 <= PLAIN.context_length)
    assert len(PLAIN.encode("cat " * length)) == length
