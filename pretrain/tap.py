"""The features that an encoder gives in training, as they pass."""

from typing import Any

from torch import Tensor, nn

# Of timm's and open_clip's encoders, the last layer before the features leave; the first that is
# there counts. Pooling comes last: objectives that want the maps go without.
LAST = ("fc_norm", "norm", "ln_post", "attn_pool", "attnpool", "stages", "layer4", "global_pool")


class Tap:
    """Keeps the first output of a step of the image encoder that is trained.

    on: False for a compiled network, through whose graph nothing is to pass by.
    """

    def __init__(self, objective: nn.Module, on: bool = True) -> None:
        self._seen: Tensor | None = None
        self._wanted = False
        self._handle: Any = None
        self._width = 0
        found = _last_layer(objective) if on else None
        if found is not None:
            layer, self._width = found
            self._handle = layer.register_forward_hook(self._keep)

    def start(self, wanted: bool) -> None:
        """At the start of a step: whether `take` will be called after it."""
        self._seen, self._wanted = None, wanted

    def _keep(self, module: nn.Module, taken: Any, given: Any) -> None:
        fits = isinstance(given, Tensor) and given.is_floating_point()
        if self._wanted and self._seen is None and fits:
            self._seen = given.detach()

    def take(self, batch: int) -> Tensor | None:
        """Features [at most batch, width] in float32, of the first view; tokens are averaged.

        None where the network has no such layer, or did not come by it.
        """
        seen, self._seen, self._wanted = self._seen, None, False
        if seen is None or seen.ndim < 2:
            return None
        if seen.ndim == 4:  # a map of features, channels second or last
            last = seen.shape[-1] == self._width != seen.shape[1]
            seen = seen.flatten(1, 2) if last else seen.flatten(2).transpose(1, 2)
        return (seen.mean(1) if seen.ndim == 3 else seen).float()[:batch]

    def close(self) -> None:
        """Leave the network as it was."""
        if self._handle is not None:
            self._handle.remove()


def _last_layer(objective: nn.Module) -> tuple[nn.Module, int] | None:
    """Of the first image encoder within that is trained, and its width as far as it tells."""
    for module in objective.modules():
        known = any(hasattr(module, name) for name in ("forward_features", "ln_post", "attnpool"))
        if known and any(each.requires_grad for each in module.parameters()):
            for name in LAST:
                layer = getattr(module, name, None)
                if isinstance(layer, nn.Module) and not isinstance(layer, nn.Identity):
                    return layer, int(getattr(module, "num_features", 0))
            return None
    return None
