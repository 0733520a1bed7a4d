"""The hub that open_clip may ask for weights, and what its client says while it does."""

import contextlib
import logging
import socket
import urllib.request
import warnings
from collections.abc import Generator
from urllib.parse import urlsplit


@contextlib.contextmanager
def offline_hub() -> Generator[None]:
    """No look-ups on a hub while a local model is loaded, whatever its configuration names."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def hub_reachable() -> bool:
    """False where the hub's name does not resolve: then only what is cached can be had.

    The hub's client would try for the better part of a minute before it said so.
    """
    from huggingface_hub import constants

    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def quiet_loading() -> Generator[None]:
    """Keep open_clip's calls on the root logger from installing a handler there.

    And keep tqdm, which the hub's client imports, from asking notebook users for widgets.
    """
    root = logging.getLogger()
    handler = logging.NullHandler()
    root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="IProgress not found")
            yield
    finally:
        root.removeHandler(handler)
