"""URLs: which file system one stands for, and that its library leaves retries to us."""

import contextlib
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

import fsspec
from fsspec.config import conf
from fsspec.implementations.local import LocalFileSystem

from infra.errors import SluiceError

S3 = ("s3", "s3a")
GCS = ("gs", "gcs")
AZURE = ("abfs", "abfss", "az")
SILENCE = 60.0  # seconds without a byte after which a connection to GCS is given up


def resolve(url: str) -> tuple[Any, str]:
    """The fsspec file system and the path of a URL.

    An unknown scheme says which package to add.
    """
    scheme = url.partition("://")[0]
    try:
        # Without a cache of listings: other processes write too, and delete.
        fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False, **_options(scheme))
    except (ImportError, ValueError) as error:
        raise SluiceError(
            f"cannot open {url}: {error}",
            "install the fsspec package of this scheme (s3fs; gcsfs, the extra gcs; adlfs, the "
            "extra azure), or use a local path",
        ) from error
    _try_once(fs, scheme)
    return fs, path


def _options(scheme: str) -> dict[str, Any]:
    if scheme in S3:
        own = conf.get(scheme, {}).get("config_kwargs", {})
        return {"config_kwargs": {**own, "retries": {"total_max_attempts": 1}}}
    if scheme in GCS:
        import aiohttp

        return {"requests_timeout": aiohttp.ClientTimeout(sock_connect=10, sock_read=SILENCE)}
    return {}


def _try_once(fs: Any, scheme: str) -> None:
    """Let the library try each request once: its tries and those of `retries` would multiply.

    gcsfs and adlfs have no setting for it. Where a later one of them is built otherwise, it goes
    on trying by itself, which costs time and nothing else.
    """
    if scheme in S3:
        fs.retries = 1
    elif scheme in GCS and "_request" not in vars(fs):
        with contextlib.suppress(AttributeError):
            fs._request = type(fs)._request.__wrapped__.__get__(fs)
    elif scheme in AZURE:
        with contextlib.suppress(AttributeError):
            fs.service_client._config.retry_policy.total_retries = 0


def named_as(url: str, names: Iterable[str]) -> list[str]:
    """URLs of paths that `resolve(url)[0]` named, written as `url` is.

    A library writes them as it likes (abfs:// for az://, s3:// for s3a://, no scheme for file://),
    and what lies under one URL would not be found again under the other. A local path without a
    scheme becomes an absolute one.
    """
    if "://" not in url:
        return [*names]
    url, path = url.rstrip("/"), str(resolve(url)[1]).rstrip("/")
    ends = zip(reversed(url), reversed(path), strict=False)
    same = len([*takewhile(lambda pair: pair[0] == pair[1], ends)])
    root, own = url[: len(url) - same], path[: len(path) - same]
    return [root + name.removeprefix(own) for name in names]


def is_local(url: str) -> bool:
    return isinstance(resolve(url)[0], LocalFileSystem)


def join(url: str, *names: str) -> str:
    return "/".join([url.rstrip("/"), *names])
