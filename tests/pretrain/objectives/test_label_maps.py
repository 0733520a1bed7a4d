from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pretrain import views
from pretrain.objectives.label_maps import LabelMaps, build
from pretrain.outputs import pooled
from tests.pretrain.batches import batch
from tests.pretrain.learning import losses
from tests.pretrain.taught import CLASSES, label_map

CPU = torch.device("cpu")


def mapped(*columns: dict[str, Any], **fields: Any) -> Any:
    return batch(len(columns), columns=[{"label_map": each} for each in columns], **fields)


@pytest.fixture
def make(small: Callable[..., Any]) -> Callable[..., LabelMaps]:
    return lambda **options: build(small("label_maps", options={"classes": CLASSES, **options}))


def test_targets_are_pooled_to_the_crop_that_is_shown(make: Any) -> None:
    """Also where maps of two sizes meet in a batch; a mirrored crop has the same target."""
    wide, tall = label_map(1), {n: v.transpose(1, 0, 2) for n, v in label_map(2).items()}
    model, samples = make(), mapped(wide, tall, wide, tall)
    target = model.views(samples, CPU)["target"]
    numbers = views.uniforms(model.key("view"), samples.places, 16)
    boxes = views.crop_boxes(numbers[:, :4], samples.sizes, model.options.crop_scale)
    for row, each in enumerate((wide, tall, wide, tall)):
        alone = pooled(
            torch.from_numpy(each["classes"].astype(np.int64))[None],
            torch.from_numpy(each["scores"].astype(np.float32))[None],
            torch.from_numpy(boxes[row : row + 1]),
            len(CLASSES),
        )
        torch.testing.assert_close(target[row], alone[0])
    flipped = make(flip=1.0).views(samples, CPU)
    assert torch.equal(flipped["target"], target)
    unflipped = make(flip=0.0).views(samples, CPU)["images"]
    torch.testing.assert_close(flipped["images"], unflipped.flip(3))


def test_labels_have_their_share(make: Any) -> None:
    samples = mapped(*[label_map(1)] * 4, texts=['{"concept": "c"}'] * 4)
    plain, mixed = (make(label_share=share).views(samples, CPU)["target"] for share in (0.0, 0.25))
    torch.testing.assert_close(mixed[:, 2], 0.75 * plain[:, 2] + 0.25)
    torch.testing.assert_close(mixed[:, 1], 0.75 * plain[:, 1])


def test_thirty_steps_lower_the_loss_and_all_learns(make: Any) -> None:
    model = make()
    found = losses(model, model.views(mapped(*[label_map(1)] * 4), CPU))
    assert 0 <= found[-1] < 0.75 * found[0]
    assert all(value.grad is not None for value in model.trained())
