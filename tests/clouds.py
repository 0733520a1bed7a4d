"""Emulators of Google Cloud Storage and Azure Blob Storage on loopback, behind a proxy of faults.

Needs the extras `gcs` and `azure`; an emulator of GCS (the package gcp-storage-emulator) and one of
Azure (azurite, of npm: its folder in $SLUICE_AZURITE, or its command on the path). What is not
there is skipped. Nothing here was tried on the real clouds.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fsspec.config import conf

from infra import filesystem
from tests.faults import Proxy
from tests.s3 import environment, free_port

# The emulator's own, printed in its manual.
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


def need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def azurite() -> list[str]:
    if folder := os.environ.get("SLUICE_AZURITE"):
        return ["node", str(Path(folder, "dist/src/blob/main.js"))]
    if found := shutil.which("azurite-blob"):
        return [found]
    pytest.skip("azurite is not installed (npm install azurite)")


@contextmanager
def served(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def google() -> Iterator[Proxy]:
    need("gcsfs", "gcp_storage_emulator")
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1"]
    with (
        served([*command, f"--port={port}", "--in-memory", "--default-bucket=sluice"], port),
        Proxy(f"http://127.0.0.1:{port}") as proxy,
        environment(
            STORAGE_EMULATOR_HOST=proxy.endpoint,
            # Else gcsfs asks by gRPC what kind of bucket it is, which the emulator does not speak.
            GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false",
        ),
    ):
        conf["gs"] = {"token": "anon"}
        try:
            yield proxy
        finally:
            del conf["gs"]


@contextmanager
def azure() -> Iterator[Proxy]:
    need("adlfs")
    port = free_port()
    options = ["--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck"]
    with (
        served([*azurite(), *options], port),
        Proxy(f"http://127.0.0.1:{port}") as proxy,
        environment(
            AZURE_STORAGE_CONNECTION_STRING="DefaultEndpointsProtocol=http;"
            f"AccountName=devstoreaccount1;AccountKey={AZURE_KEY};"
            f"BlobEndpoint={proxy.endpoint}/devstoreaccount1;"
        ),
    ):
        filesystem.resolve("az://sluice")[0].mkdir("sluice")
        yield proxy


CLOUDS = {"gs": google, "az": azure}
