"""What a service is told when it starts: light, so that help is answered without an engine."""

import ipaddress
from typing import Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, SecretStr

from infra.errors import SluiceError

LOOPBACK = "127.0.0.1"


class ServiceSettings(BaseModel):
    """Which indexes are served, to whom, and how much of it at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    indexes: tuple[str, ...] = Field(min_length=1, description="NAME or NAME@VERSION of the store")
    store: str = Field("store", description="where versions live: a folder or a URL")
    host: str = Field(LOOPBACK, description="address to listen at")
    port: int = Field(8000, ge=0, lt=2**16, description="0: any that is free")
    api_key: SecretStr | None = Field(None, description="what every request has to show")
    allow_save: bool = Field(False, description="let requests make dataset versions")
    allow_origin: tuple[str, ...] = Field((), description="web origins whose pages may ask")
    follow: float = Field(5.0, ge=0, description="seconds between looks for newer; 0: never")
    model: str | None = Field(None, description="the questions' model, as `indexes.open` has it")
    pretrained: str | None = Field(None, description="its weights, as `indexes.open` has it")
    device: Literal["cpu", "cuda"] = Field("cpu", description="that compares the vectors")

    max_body: ByteSize = Field(ByteSize(16 * 2**20), gt=0, description="bytes of a request")
    max_k: int = Field(1000, gt=0, description="hits of a search, rows of a sample")
    max_where: int = Field(4096, gt=0, description="characters of a condition")
    connections: int = Field(4096, gt=0, description="open at once; further ones are refused")
    in_flight: int = Field(256, gt=0, description="requests worked on at once")
    queue: int = Field(4096, ge=0, description="requests that wait for these; more are refused")
    deadline: float = Field(30.0, gt=0, description="seconds a request may take, waiting included")
    save_deadline: float = Field(600.0, gt=0, description="seconds that saving a subset may take")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check(self) -> None:
        """SluiceError for a service that anybody could ask."""
        if self.api_key is not None and not self.api_key.get_secret_value():
            raise SluiceError("the API key is empty", "give one of 16 characters or more")
        if not self.is_loopback and self.api_key is None:
            raise SluiceError(
                f"{self.host} can be reached from other machines, and there is no API key",
                "put one into SLUICE_API_KEY or a file named by --api-key-file, or listen at "
                f"{LOOPBACK}",
            )
