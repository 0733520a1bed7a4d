"""The machines that a forecast is for: a YAML file, or the machine at hand."""

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import SluiceError


class Group(BaseModel):
    """Nodes of one kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    nodes: int = Field(ge=1)
    workers: int = Field(ge=1, description="of a node: its processors, or its GPUs")
    memory_gb: float = Field(gt=0, description="of a node")
    price: float = Field(default=0.0, ge=0, description="of a node for an hour")
    lost_per_hour: float = Field(
        default=0.0, ge=0, lt=1, description="share of the nodes that a spot market takes away"
    )
    runs: tuple[str, ...] = Field(
        default=(), description="stages, as patterns; none: all that no other group names"
    )
    speed: float = Field(
        default=1.0, gt=0, description="of a worker, beside one of the calibration's"
    )
    seconds_a_row: dict[str, float] = Field(
        default_factory=dict, description="by pattern: of a worker here, where it was measured"
    )

    def names(self, stage: str) -> bool:
        return any(fnmatchcase(stage, pattern) for pattern in self.runs)

    def own_rate(self, stage: str) -> float | None:
        """Seconds a row that were measured on such machines."""
        found = (rate for name, rate in self.seconds_a_row.items() if fnmatchcase(stage, name))
        return next(found, None)


class Cluster(BaseModel):
    """Groups of nodes; a stage runs on one of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: tuple[Group, ...] = Field(min_length=1)
    autoscaling: bool = Field(default=False, description="a node is paid for while it works only")
    driver_ms: float = Field(default=6.0, ge=0, description="of the driver, for each shard")
    rows_a_shard: float | None = Field(
        default=None, ge=1, description="of the pool, where --rows-a-shard does not say"
    )
    store_gb_per_second: float | None = Field(
        default=None, gt=0, description="what the object store takes in, of all nodes together"
    )

    @model_validator(mode="after")
    def _somebody_does_the_rest(self) -> Self:
        if all(group.runs for group in self.groups):
            raise ValueError("one group must do what no other names: leave its `runs` out")
        return self

    def group_of(self, stage: str) -> Group:
        named = (group for group in self.groups if group.names(stage))
        return next(named, next(group for group in self.groups if not group.runs))


def this_machine(workers: int, price: float = 0.0) -> Cluster:
    """One node: this machine, with so many workers."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    group = Group(name="this machine", nodes=1, workers=workers, memory_gb=memory, price=price)
    return Cluster(groups=(group,))


def load_cluster(path: str) -> Cluster:
    """Raises SluiceError that names the file and what is wrong with it."""
    try:
        value: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return Cluster.model_validate(value)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SluiceError(f"cannot read the cluster {path}: {error}", "see --help") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(each) for each in first["loc"]) or "it"
        raise SluiceError(
            f"the cluster {path}: {where}: {first['msg']}", "see infra/deploy/simulate/cluster.yaml"
        ) from error
