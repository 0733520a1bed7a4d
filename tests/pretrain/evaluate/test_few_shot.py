import numpy as np

from infra.digests import generator
from pretrain.evaluate import few_shot


def test_a_draw_has_k_of_every_class_and_the_larger_holds_the_smaller():
    labels = np.arange(60) % 4
    one, five = (few_shot.draw(labels, shots, 0, 3) for shots in (1, 5))
    assert np.bincount(labels[five]).tolist() == [5] * 4 and len(set(five.tolist())) == 20
    assert set(one.tolist()) < set(five.tolist())
    assert few_shot.draw(labels, 5, 0, 4).tolist() != five.tolist()
    assert few_shot.draw(labels, 5, 0, 3).tolist() == five.tolist()


def test_the_nearest_mean_against_a_plain_loop():
    rng = generator("few shot test")
    support, queries = rng.normal(2, 1, (12, 5)), rng.normal(2, 1, (30, 5))
    labels = np.repeat([1, 4, 6], 4)
    centre = support.mean(axis=0)
    expected = []
    for query in queries:
        scores = {}
        for label in (1, 4, 6):
            rows = [
                (row - centre) / np.linalg.norm(row - centre) for row in support[labels == label]
            ]
            mean = np.mean(rows, axis=0)
            scores[label] = float((query - centre) @ mean / np.linalg.norm(mean))
        expected.append(max(scores, key=scores.get))
    found = few_shot.nearest_mean(support, labels, queries)
    assert found.tolist() == expected


def test_more_shots_answer_better():
    rng = generator("shots")
    centres = rng.normal(size=(5, 20))
    labels = np.arange(200) % 5
    rows = centres[labels] + rng.normal(0, 1.2, (200, 20))
    test = centres[labels] + rng.normal(0, 1.2, (200, 20))
    right = []
    for shots in (1, 20):
        drawn = [few_shot.draw(labels, shots, 0, number) for number in range(5)]
        answers = [few_shot.nearest_mean(rows[d], labels[d], test) for d in drawn]
        right.append(np.mean([(found == labels).mean() for found in answers]))
    assert right[0] + 0.1 < right[1]
