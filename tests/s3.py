"""A real S3-compatible server in a process of its own, and the way there for every process.

    with S3() as s3: s3.url("store")     s3://sluice/store

The endpoint and the credentials stand in the environment, so that workers and commands find them.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import s3fs

BUCKET = "sluice"
_LINE = re.compile(r'"([A-Z]+) /([^ ?]*)\??([^ ]*) HTTP/')


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """The environment with `values`; s3fs opens its connections anew, before and after."""
    before = dict(os.environ)
    os.environ.update(values)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        s3fs.S3FileSystem.clear_instance_cache()


class S3:
    """The server, with one bucket. `requests` counts what it was asked since the last `forget`."""

    def __init__(self) -> None:
        self.endpoint = f"http://127.0.0.1:{free_port()}"
        self._seen = 0

    def url(self, *names: str) -> str:
        return "/".join([f"s3://{BUCKET}", *names])

    def __enter__(self) -> "S3":
        self._log = Path(tempfile.mkstemp(prefix="sluice-s3-")[1])
        port = self.endpoint.rpartition(":")[2]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True
            )
        self._environment = environment(
            AWS_ENDPOINT_URL=self.endpoint, AWS_ACCESS_KEY_ID="sluice",
            AWS_SECRET_ACCESS_KEY="sluice", AWS_DEFAULT_REGION="us-east-1",
            AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull,
            AWS_EC2_METADATA_DISABLED="true", NO_PROXY="127.0.0.1",
        )  # fmt: skip
        self._environment.__enter__()
        try:
            self._wait(int(port))
            self.files().mkdir(BUCKET)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self, port: int) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(self._log.read_text()) from None
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self._environment.__exit__(None, None, None)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.unlink()

    def files(self) -> Any:
        """The file system as it is now, not as it was once listed."""
        return s3fs.S3FileSystem(use_listings_cache=False)

    def unfinished(self) -> list[str]:
        """The keys of uploads that were begun and neither completed nor given up."""
        found = self.files().call_s3("list_multipart_uploads", Bucket=BUCKET)
        return [upload["Key"] for upload in found.get("Uploads", [])]

    @contextmanager
    def refusing(self, folder: str) -> Iterator[None]:
        """Meanwhile what lies in a folder can neither be read nor written."""
        policy = {"Effect": "Deny", "Principal": "*", "Action": "s3:*"}
        policy["Resource"] = f"arn:aws:s3:::{BUCKET}/{folder}/*"
        statement = json.dumps({"Version": "2012-10-17", "Statement": [policy]})
        self.files().call_s3("put_bucket_policy", Bucket=BUCKET, Policy=statement)
        try:
            yield
        finally:
            self.files().call_s3("delete_bucket_policy", Bucket=BUCKET)

    def forget(self) -> None:
        self._seen = len(_LINE.findall(self._log.read_text()))

    def requests(self) -> list[tuple[str, str, str]]:
        """Method, bucket/key and query of each request, in order, since the last `forget`."""
        return _LINE.findall(self._log.read_text())[self._seen :]

    def methods(self) -> Counter[str]:
        """How often each kind of request came: PUT, GET, HEAD, LIST, POST, DELETE."""
        return Counter(
            "LIST" if "list-type" in query else method for method, _, query in self.requests()
        )
