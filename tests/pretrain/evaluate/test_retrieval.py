import numpy as np

from infra.digests import generator
from pretrain.evaluate import retrieval
from pretrain.evaluate.knn import unit


def test_texts_stand_once_and_pairs_name_all_their_images():
    texts, pairs = retrieval.pair([("a", "b"), ("b",), ("c", "c")])
    assert texts == ["a", "b", "c"]
    assert pairs.tolist() == [[0, 0], [0, 1], [1, 1], [2, 2]]


def test_ranks_against_a_plain_loop(monkeypatch):
    rng = generator("retrieval")
    images, texts = (unit(rng.normal(size=(count, 6)).astype(np.float32)) for count in (40, 70))
    pairs = np.array([(t % 40, t) for t in range(70)] + [(3, 50)])
    expected = []
    for image in range(40):
        scores = texts @ images[image]
        own = {text for which, text in pairs.tolist() if which == image}
        best = max(scores[text] for text in own)
        expected.append(sum(scores[text] >= best for text in range(70) if text not in own))
    monkeypatch.setattr(retrieval, "CHUNK", 7)
    assert retrieval.ranks(images, texts, pairs).tolist() == expected
    back = retrieval.ranks(texts, images, pairs[:, ::-1])
    assert back.shape == (70,) and back.max() <= 39


def test_an_encoder_that_maps_all_to_one_point_finds_nothing():
    same = np.ones((8, 4), np.float32) / 2
    pairs = np.stack([np.arange(8)] * 2, axis=1)
    assert (retrieval.ranks(same, same, pairs) == 7).all()
