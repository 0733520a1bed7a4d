"""One encoder that several objectives train: what each of them is given when it is built.

An objective's `build` asks for encoders and two-tower models by its settings, as for itself alone.
Within `sharing` the first encoder that it asks for is the shared one, any further one (a teacher)
a copy of it, and the image tower of a two-tower model is the shared one.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from torch import nn

from infra.errors import SluiceError
from pretrain.teacher import never_drops


class Shared:
    """The encoder while one objective is built. encoder: as `build_encoder` gave it."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.taken = False

    def take(self) -> Any:
        self.taken = True
        return self.encoder

    def follow(self, copied: nn.Module, given: bool) -> None:
        """Make `copied`, of the same kind, a copy; given: it has weights of its own already."""
        if not given:
            copied.load_state_dict(self.encoder.model.state_dict())
        never_drops(copied)

    def place(self, towers: Any) -> None:
        """Make it the image tower of an open_clip model that has one of timm.

        SluiceError where open_clip would build another one than it is when it loads the model.
        """
        own, mine = towers.visual.trunk.state_dict(), self.take().model.state_dict()
        sizes, wanted = ({k: v.shape for k, v in state.items()} for state in (own, mine))
        if sizes != wanted:
            off = sorted(
                name for name in own.keys() | mine.keys() if sizes.get(name) != wanted.get(name)
            )
            made_for = towers.visual.trunk.default_cfg.get("input_size", (0, 0, 0))[-1]
            raise SluiceError(
                f"open_clip builds {self.encoder.name} in another shape ({off[0]}), for it knows "
                "no model_kwargs and no image size but the model's own",
                f"use image_size {made_for} and no model_kwargs, or a network that takes any size",
            )
        towers.visual.trunk = self.encoder.model


_CURRENT: ContextVar[Shared | None] = ContextVar("shared encoder", default=None)


def current() -> Shared | None:
    """The encoder to be shared by what is built now, if any."""
    return _CURRENT.get()


@contextlib.contextmanager
def sharing(encoder: Any) -> Iterator[None]:
    """Within it one objective is built on `encoder`; which of its weights are trained stays."""
    trained = {name: value.requires_grad for name, value in encoder.model.named_parameters()}
    token = _CURRENT.set(Shared(encoder))
    try:
        yield
    finally:
        _CURRENT.reset(token)
        for name, value in encoder.model.named_parameters():
            value.requires_grad_(trained[name])
