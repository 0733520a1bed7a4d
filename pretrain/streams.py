"""A GPU's own stream of work, for what is made beside the steps."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Made(NamedTuple):
    """Something that a thread made. done: the event after which it is there, on a GPU."""

    value: Any
    done: Any


class Aside:
    """What a thread makes on a GPU while steps go on there; elsewhere it changes nothing.

    A GPU works off a stream in its order. In the stream of the steps, views would be made after
    all steps that were asked for before, and a copy to the GPU would hold up its thread until then:
    the step that needs them would find the GPU idle. See `torch.cuda.Stream`.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._stream.wait_stream(torch.cuda.current_stream(device))  # weights that views use

    def each(self, items: Iterator[T]) -> Iterator[Made]:
        """These, each made in this stream. To be asked for by the thread that makes them."""
        if self._stream is None:
            yield from (Made(item, None) for item in items)
            return
        while True:
            with torch.cuda.stream(self._stream):
                item = next(items, None)
                if item is None:
                    return
                done = self._stream.record_event()
            yield Made(item, done)

    def take(self, made: Made) -> Any:
        """What was made, for the stream of the thread that calls."""
        if made.done is not None:
            stream = torch.cuda.current_stream(self._stream.device)
            stream.wait_event(made.done)
            for tensor in tensors(made.value):
                if tensor.is_cuda:  # its memory is not given away before that stream is done
                    tensor.record_stream(stream)
        return made.value


def tensors(tree: Any) -> Iterator[Tensor]:
    """All tensors in mappings and sequences within each other."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from tensors(value)
