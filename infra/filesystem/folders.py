"""Folders: what is in them, and removing it. An object store has none, only names."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from infra.filesystem.retries import ask
from infra.filesystem.urls import GCS, S3, is_local, named_as, resolve

PER_REQUEST = 1000  # files that S3 removes at once


def is_folder(url: str) -> bool:
    return ask(url, "exists", lambda fs, path: bool(fs.isdir(path)))


def list_files(url: str) -> list[str]:
    """The URLs of the files a path, a folder or a glob pattern stands for, sorted.

    They begin as `url` does.
    """
    return named_as(url, ask(url, "list", _list))


def _list(fs: Any, path: str) -> list[str]:
    if any(sign in path for sign in "*?["):
        listed = {name: facts["type"] for name, facts in fs.glob(path, detail=True).items()}
        # Only links are asked about one by one: on an object store each question is a call.
        return sorted(
            name
            for name, kind in listed.items()
            if kind == "file" or (kind != "directory" and fs.isfile(name))
        )
    return sorted(fs.find(path))  # of a file that file, of nothing nothing


def list_names(url: str) -> list[str]:
    """The names of what lies in a folder itself, sorted; of no folder, nothing."""
    try:
        found = ask(url, "list", lambda fs, path: fs.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in found)


def remove_file(url: str) -> None:
    """Remove a file; that there is none is no error."""
    with contextlib.suppress(FileNotFoundError):
        ask(
            url,
            "remove",
            lambda fs, path: fs.rm_file(path),
            verb="remove",
            passes=(FileNotFoundError,),
        )


def remove_tree(url: str) -> None:
    """Remove a folder and all in it; that there is none is no error."""
    fs, path = resolve(url)
    if isinstance(fs, LocalFileSystem):
        shutil.rmtree(path, ignore_errors=True)
        return
    names = ask(url, "list", lambda fs, path: fs.find(path))
    remove_files(named_as(url, names))


def remove_files(urls: Sequence[str]) -> None:
    """Remove files of one store, many at once where it takes such requests."""
    if not urls or not urls[0].startswith(tuple(f"{scheme}://" for scheme in (*S3, *GCS))):
        for url in urls:
            remove_file(url)
        return
    for start in range(0, len(urls), PER_REQUEST):
        batch = [resolve(url)[1] for url in urls[start : start + PER_REQUEST]]
        with contextlib.suppress(FileNotFoundError):  # another writer was faster
            ask(urls[0], "remove", lambda fs, path, batch=batch: fs.rm(batch), verb="remove")


def remove_empty(url: str) -> None:
    """Remove a local folder if nothing is in it; object stores have no folders."""
    if is_local(url):
        with contextlib.suppress(OSError):
            Path(resolve(url)[1]).rmdir()


def free_bytes(url: str) -> int | None:
    """Free space where `url` would be written, or None where nobody can tell."""
    if not is_local(url):
        return None
    folder = Path(resolve(url)[1])
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
