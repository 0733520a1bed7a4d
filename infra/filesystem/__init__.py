"""Files on any fsspec URL: whole files appear at once or not at all.

A local path is a URL without a scheme. Local writes go to a temporary name beside the
target and are renamed; object stores publish an object only when its upload completes.

What a remote store fails at is tried again while it may pass by itself (`retries`), and is then a
SluiceError that names the URL, whatever its library calls it: else an expired token would look
like a damaged file. Only a file that is not there is not told so.
"""

from infra.filesystem.folders import (
    free_bytes,
    is_folder,
    list_files,
    list_names,
    remove_empty,
    remove_file,
    remove_files,
    remove_tree,
)
from infra.filesystem.probe import check_writable
from infra.filesystem.reading import (
    TAGS,
    exists,
    info,
    infos,
    open_read,
    read_bytes,
    read_json,
    read_many,
    read_ranges,
    size,
    state,
)
from infra.filesystem.urls import is_local, join, resolve
from infra.filesystem.writing import (
    TEMPORARY,
    FilePart,
    HashingFile,
    put_if_absent,
    write_bytes,
    write_whole,
)

__all__ = [
    "TAGS",
    "TEMPORARY",
    "FilePart",
    "HashingFile",
    "check_writable",
    "exists",
    "free_bytes",
    "info",
    "infos",
    "is_folder",
    "is_local",
    "join",
    "list_files",
    "list_names",
    "open_read",
    "put_if_absent",
    "read_bytes",
    "read_json",
    "read_many",
    "read_ranges",
    "remove_empty",
    "remove_file",
    "remove_files",
    "remove_tree",
    "resolve",
    "size",
    "state",
    "write_bytes",
    "write_whole",
]
