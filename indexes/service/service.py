"""The parts of a running service."""

from dataclasses import dataclass

from indexes.service.asking import Asking, Fetch
from indexes.service.live import Registry
from indexes.service.metrics import Metrics
from indexes.service.settings import ServiceSettings
from indexes.service.workers import Workers


@dataclass(frozen=True)
class Service:
    """What its routes are given."""

    settings: ServiceSettings
    registry: Registry
    asking: Asking
    workers: Workers
    metrics: Metrics


def open_service(settings: ServiceSettings, fetch: Fetch | None = None) -> Service:
    """Open every index that is to be served; SluiceError where one does not open.

    fetch: gives the bytes at the URL of a picture that is asked with.
    """
    settings.check()
    workers, metrics = Workers(settings.deadline), Metrics()
    registry = Registry(settings, workers, metrics)
    return Service(settings, registry, Asking(settings, workers, fetch), workers, metrics)
