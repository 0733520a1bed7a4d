"""The one error users see: what is wrong, where, and the way out."""

from infra.secrets import redacted


class SluiceError(Exception):
    """A failure that ends the job, told in words a user can act on.

    `what` names the file, shard or key; `way_out` says what to do about it. Neither holds a secret.
    """

    def __init__(self, what: str, way_out: str = "") -> None:
        self.what = redacted(what)
        self.way_out = redacted(way_out)
        super().__init__(self.what, self.way_out)

    def __str__(self) -> str:
        return f"{self.what}\n  way out: {self.way_out}" if self.way_out else self.what


class PauseError(SluiceError):
    """A failure of the surroundings that may pass by itself: the stage waits and goes on."""
