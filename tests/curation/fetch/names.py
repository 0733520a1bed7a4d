"""A DNS server on a real socket: A records by name, and faults."""

import socket
import struct
import threading
from collections import Counter
from types import TracebackType

NXDOMAIN, SERVFAIL = 3, 2


class NameServer:
    """Answers A questions from `names`; a value that is a number is a response code.

    silent: takes questions and never answers.
    """

    def __init__(self, names: dict[str, str | int], silent: bool = False) -> None:
        self.names, self.silent = names, silent
        self.asked: Counter[str] = Counter()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                question, sender = self._socket.recvfrom(4096)
            except OSError:
                return
            answer = self._answer(question)
            if not self.silent:
                self._socket.sendto(answer, sender)

    def _answer(self, question: bytes) -> bytes:
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        name = ".".join(labels).lower()
        kind = struct.unpack(">H", question[at + 1 : at + 3])[0]
        asked = question[12 : at + 5]
        if kind == 1:
            self.asked[name] += 1
        found = self.names.get(name, NXDOMAIN)
        code = found if isinstance(found, int) else 0
        record = b""
        if isinstance(found, str) and kind == 1:
            record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(found)
        flags = 0x8180 | code
        return question[:2] + struct.pack(">HHHHH", flags, 1, bool(record), 0, 0) + asked + record

    def __enter__(self) -> "NameServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()
