"""What both commands that serve take: `python -m indexes serve` and `prefect run serve`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from indexes.service.settings import ServiceSettings

KEY_VARIABLE = "SLUICE_API_KEY"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServeChoices:
    """Where, to whom, and what may be done."""

    host: Annotated[str, Parameter(name="--host")] = "127.0.0.1"
    """Address to listen at. Any other than this machine's own wants an API key."""

    port: Annotated[int, Parameter(name="--port")] = 8000
    """Port to listen at; 0 is any that is free."""

    api_key_file: Annotated[str | None, Parameter(name="--api-key-file")] = None
    """A file with the API key; without it, what SLUICE_API_KEY holds. Requests show it as
    `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    allow_save: Annotated[bool, Parameter(name="--allow-save", negative=())] = False
    """Let requests save subsets as dataset versions in the store."""

    allow_origin: Annotated[tuple[str, ...], Parameter(name="--allow-origin", negative=())] = ()
    """A web origin, such as https://tools.example.org, whose pages may ask. Repeatable."""

    follow: Annotated[float, Parameter(name="--follow")] = 5.0
    """Seconds between looks for a newer version or index, which then goes live; 0: never."""

    model: Annotated[str | None, Parameter(name="--model")] = None
    """Folder or open_clip name of the model for texts and pictures, where it is not in the store.
    """

    pretrained: Annotated[str | None, Parameter(name="--pretrained")] = None
    """Weights of that model: open_clip's tag, or a checkpoint file."""

    device: Annotated[str, Parameter(name="--device")] = "cpu"
    """cuda: hold the vectors in the memory of a GPU, and compare every one there."""

    max_k: Annotated[int, Parameter(name="--max-k")] = 1000
    """Most hits that one search gives."""

    connections: Annotated[int, Parameter(name="--connections")] = 4096
    """Connections open at once; further ones are answered 503, and closed."""

    in_flight: Annotated[int, Parameter(name="--in-flight")] = 256
    """Requests worked on at once."""

    queue: Annotated[int, Parameter(name="--queue")] = 4096
    """Requests that wait for these; more are answered 503."""

    deadline: Annotated[float, Parameter(name="--deadline")] = 30.0
    """Seconds a request may take, waiting included, and seconds that its head may take to come."""

    def settings(self, names: tuple[str, ...], store: str) -> "ServiceSettings":
        """As settings of a service; SluiceError for what is wrong with them."""
        from pydantic import ValidationError

        from indexes.service.settings import ServiceSettings
        from infra.errors import SluiceError

        chosen = {name: value for name, value in vars(self).items() if name != "api_key_file"}
        try:
            return ServiceSettings.model_validate(
                {**chosen, "indexes": names, "store": store, "api_key": self._key()}
            )
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            name = "--" + str(first["loc"][0]).replace("_", "-")
            way_out = "name at least one NAME or NAME@VERSION" if name == "--indexes" else ""
            raise SluiceError(f"{name}: {first['msg']}", way_out) from None

    def _key(self) -> str | None:
        from infra.errors import SluiceError

        if self.api_key_file is None:
            return os.environ.get(KEY_VARIABLE)
        try:
            return Path(self.api_key_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SluiceError(
                f"cannot read the API key in {self.api_key_file}: {error}", "check --api-key-file"
            ) from None
