"""Captions to tokens as open_clip's own tokenizer gives them, each plain word looked up once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

WORDS = 2**17  # remembered at a time


class Tokens:
    """A tokenizer of open_clip that remembers words.

    Most of its time goes into mending text and cutting it into words. Nothing is to be mended in
    printable ASCII without "&", and no token reaches over a space: there a text's tokens are those
    of its words. Every other text, and every tokenizer of another kind, goes the long way.
    """

    def __init__(self, tokenizer: Any) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self.tokenizer = tokenizer
        self.context_length = int(tokenizer.context_length)
        self._known: dict[str, list[int]] | None = None
        if type(tokenizer) is SimpleTokenizer and tokenizer.reduction_fn is None:
            self._known = {}

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """int64 [n, context_length], padded with zeros; texts that are longer are cut."""
        if self._known is None:
            return self.tokenizer(list(texts))
        first, last = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        tokens = np.zeros((len(texts), self.context_length), np.int64)
        for row, text in zip(tokens, texts, strict=True):
            found = [first, *self._encoded(text, self._known)[: self.context_length - 2], last]
            row[: len(found)] = found
        return torch.from_numpy(tokens)

    def fits(self, text: str) -> bool:
        """Whether nothing of a text is cut: one more place for a token would stay empty."""
        more = self.context_length + 1
        tokens = self.tokenizer([text, ""], context_length=more)
        return bool(tokens[0, -1] == tokens[1, -1])

    def _encoded(self, text: str, known: dict[str, list[int]]) -> list[int]:
        if not (text.isascii() and text.isprintable()) or "&" in text:
            return self.tokenizer.encode(text)
        found: list[int] = []
        for word in text.split():
            tokens = known.get(word)
            if tokens is None:
                if len(known) >= WORDS:
                    known.clear()
                tokens = known[word] = self.tokenizer.encode(word)
            found += tokens
        return found
