"""A web server of the worst kind, on real sockets: every fault that a crawl meets.

    with FaultServer() as server: server.url("/ok/7.jpg")

Paths: /ok/N.jpg an image of its own for every N; see FAULTS for the rest. A fault that is to
pass takes ?times=K: the first K requests for that URL fail, later ones give its image.
"""

import asyncio
import gzip
import io
import ssl
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from infra.digests import generator


def jpeg(number: int, side: int = 48) -> bytes:
    """A JPEG that no other number gives."""
    coarse = generator("server", number).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((side, side)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def png_bomb(side: int = 60_000) -> bytes:
    """A few kilobytes that name 3.6 thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(2**20))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)
            + chunk(b"IEND", b""))  # fmt: skip


class Request:
    """One request and the way to answer it."""

    def __init__(self, path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(path)
        self.target, self.path, self.headers, self.writer = path, parts.path, headers, writer
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}

    def number(self) -> int:
        last = self.path.rpartition("/")[2]
        digits = "".join(sign for sign in last if sign.isdigit())
        return int(digits or 0)

    async def send(
        self, body: bytes, status: int = 200, headers: str = "", length: int | None = None
    ) -> None:
        size = len(body) if length is None else length
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {size}\r\n{headers}\r\n"
        self.writer.write(head.encode("latin-1") + body)
        await self.writer.drain()

    async def image(self, headers: str = "") -> None:
        await self.send(jpeg(self.number()), headers=headers)

    def hang_up(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        found = self.writer.get_extra_info("socket")
        found.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER
        self.writer.transport.abort()


Fault = Callable[[Request], Awaitable[None]]


async def _slow_header(request: Request) -> None:
    await asyncio.sleep(float(request.query.get("seconds", "30")))
    await request.image()


async def _slow_body(request: Request) -> None:
    body = jpeg(request.number())
    head = f"HTTP/1.1 200 X\r\nContent-Length: {len(body)}\r\n\r\n"
    request.writer.write(head.encode())
    for start in range(0, len(body), 16):
        request.writer.write(body[start : start + 16])
        await request.writer.drain()
        await asyncio.sleep(float(request.query.get("pause", "0.5")))


async def _truncated(request: Request) -> None:
    body = jpeg(request.number())
    await request.send(body[: len(body) // 2], length=len(body))
    request.hang_up()


async def _wrong_length(request: Request) -> None:
    """Claims less than there is: what is taken lacks its end."""
    body = jpeg(request.number())
    await request.send(body, length=len(body) - 20)
    request.hang_up()


async def _status(request: Request) -> None:
    after = request.query.get("after")
    headers = f"Retry-After: {after}\r\n" if after else ""
    await request.send(b"no such thing", int(request.path.split("/")[2]), headers)


async def _redirect(request: Request) -> None:
    """/redirect/N leads there in N steps; ?to=URL leads anywhere."""
    steps = request.number()
    to = request.query.get("to") or (f"/redirect/{steps - 1}" if steps > 1 else "/ok/1.jpg")
    await request.send(b"", 302, f"Location: {to}\r\n")


async def _loop(request: Request) -> None:
    other = "/loop/b" if request.path.endswith("a") else "/loop/a"
    await request.send(b"", 301, f"Location: {other}\r\n")


async def _html(request: Request) -> None:
    await request.send(b"<!doctype html><p>gone</p>", headers="Content-Type: image/jpeg\r\n")


async def _svg(request: Request) -> None:
    await request.send(b'<svg xmlns="http://www.w3.org/2000/svg"/>')


async def _gzip(request: Request) -> None:
    body = gzip.compress(jpeg(request.number()))
    await request.send(body, headers="Content-Encoding: gzip\r\n")


async def _gzip_bomb(request: Request) -> None:
    body = gzip.compress(bytes(64 * 2**20))
    await request.send(body, headers="Content-Encoding: gzip\r\n")


async def _png_bomb(request: Request) -> None:
    await request.send(png_bomb())


async def _endless(request: Request) -> None:
    request.writer.write(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n\xff\xd8\xff")
    while not request.writer.is_closing():
        request.writer.write(bytes(2**16))
        await request.writer.drain()


async def _reset(request: Request) -> None:
    request.reset()


async def _reset_body(request: Request) -> None:
    body = jpeg(request.number())
    await request.send(body[:100], length=len(body))
    request.reset()


async def _garbage(request: Request) -> None:
    request.writer.write(b"\x00\x01 this is no HTTP\r\n\r\n")
    await request.writer.drain()
    request.hang_up()


async def _headers(request: Request) -> None:
    await request.image("".join(f"X-{number}: {'y' * 1000}\r\n" for number in range(200)))


async def _tag(request: Request) -> None:
    await request.image(f"X-Robots-Tag: {request.query['is']}\r\n")


FAULTS: dict[str, Fault] = {
    "ok": lambda request: request.image(),
    "slow-header": _slow_header,
    "slow-body": _slow_body,
    "truncated": _truncated,
    "wrong-length": _wrong_length,
    "status": _status,
    "redirect": _redirect,
    "loop": _loop,
    "html": _html,
    "svg": _svg,
    "gzip": _gzip,
    "gzip-bomb": _gzip_bomb,
    "png-bomb": _png_bomb,
    "endless": _endless,
    "reset": _reset,
    "reset-body": _reset_body,
    "garbage": _garbage,
    "headers": _headers,
    "tag": _tag,
}


class FaultServer:
    """The server, in a thread of its own. `asked` counts the requests for each path."""

    def __init__(self, robots: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.asked: Counter[str] = Counter()
        self.agents: Counter[str] = Counter()
        self.busiest = 0  # connections at once
        self.connections = 0
        self._robots, self._tls, self._open = robots, tls, 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        self.connections += 1
        self.busiest = max(self.busiest, self._open)
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                lines = (line.partition(":") for line in head[1:] if ":" in line)
                headers = {name.lower(): value.strip() for name, _, value in lines}
                await self._answer(Request(head[0].split()[1], headers, writer))
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, request: Request) -> None:
        self.asked[request.target] += 1
        self.agents[request.headers.get("user-agent", "")] += 1
        if request.path == "/robots.txt":
            if self._robots is None:
                await request.send(b"", 404)
            else:
                await request.send(self._robots.encode())
            return
        fault = FAULTS.get(request.path.split("/")[1], _status)
        if self.asked[request.target] > int(request.query.get("times", "1000000")):
            fault = FAULTS["ok"]
        await fault(request)

    def __enter__(self) -> "FaultServer":
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls, backlog=512)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _close(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
