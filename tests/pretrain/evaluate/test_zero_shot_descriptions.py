import numpy as np
import pytest

from infra.errors import SluiceError
from pretrain.evaluate import zero_shot_descriptions as described

VECTORS = {"a cat has fur": [2.0, 0.0], "it purrs": [0.0, 5.0], "a dog barks": [-3.0, 0.0]}


def encode(texts):
    return np.array([VECTORS[text] for text in texts], np.float32)


def test_sentences_are_averaged_as_unit_vectors_and_hold_the_name():
    sentences = {"cat": ("a {} has fur", "it purrs"), "dog": ("a {} barks",), "cow": ("moo",)}
    found = described.class_vectors(encode, ["cat", "dog"], sentences)
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], [-1, 0]], atol=1e-6)


def test_a_class_without_a_description_is_named():
    with pytest.raises(SluiceError, match="lacks 1 of 2 classes, first 'dog'"):
        described.class_vectors(encode, ["cat", "dog"], {"cat": ("it purrs",)})
