"""Secrets stay in the environment, or in Prefect's blocks: never in a manifest, log or report.

A URL may carry one: a password before its host, or a signature in its query. Such a location is
refused where settings are read; what messages say of a URL that came by another way is masked.
"""

import re
from urllib.parse import parse_qsl, urlsplit

MASK = "***"
# Names of query values that grant access: AWS, Google and Azure signatures, and the usual ones.
SECRET_VALUES = re.compile(
    r"^(x-(amz|goog)-(signature|credential|security-token)|signature|sig|awsaccesskeyid|"
    r"googleaccessid|(access|auth|api|refresh)?[_-]?token|api[_-]?key|key|secret|password|passwd)$",
    re.IGNORECASE,
)
_USER = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE)
_VALUE = re.compile(r"([?&;])([\w.%-]+)=([^&\s'\"#;]+)")


def secret_in(url: str) -> str | None:
    """What of a URL is a secret, in words; None where nothing is."""
    try:
        parts = urlsplit(url)
        user = parts.password is not None or (parts.username and "@" in parts.netloc)
    except ValueError:  # no URL at all
        return None
    if user and parts.scheme not in ("abfs", "abfss", "wasb", "wasbs"):  # container@account
        return "a user or password before its host"
    named = [name for name, _ in parse_qsl(parts.query) if SECRET_VALUES.match(name)]
    return f"{', '.join(named)} in its query" if named else None


def redacted(text: str) -> str:
    """`text` with the secrets of all URLs in it masked."""
    text = _USER.sub(_without_user, text) if "@" in text else text
    return _VALUE.sub(_without_value, text) if "=" in text else text


def _without_user(found: re.Match[str]) -> str:
    scheme = found[1].lower()
    return found[0] if scheme.startswith(("abfs", "wasb")) else f"{found[1]}{MASK}@"


def _without_value(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}={MASK}" if SECRET_VALUES.match(found[2]) else found[0]
