import numpy as np

from pretrain.evaluate import zero_shot


def test_templates_are_averaged_as_unit_vectors():
    vectors = {
        "a cat": [1.0, 0.0],
        "cat!": [0.0, 1.0],
        "a dog": [-1.0, 0.0],
        "dog!": [-1.0, 0.0],
    }
    asked = []

    def encode(texts):
        asked.extend(texts)
        return np.array([vectors[text] for text in texts], np.float32)

    classes = zero_shot.class_vectors(encode, ["cat", "dog"], ["a {}", "{}!"])
    assert asked == ["a cat", "cat!", "a dog", "dog!"]
    np.testing.assert_allclose(classes, [[0.5**0.5, 0.5**0.5], [-1, 0]], atol=1e-6)
    answers = zero_shot.classify(np.array([[0.1, 0.9], [-0.9, 0.1]], np.float32), classes)
    assert answers.tolist() == [0, 1]
