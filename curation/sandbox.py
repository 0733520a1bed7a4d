"""A pure function in a child process, where hostile bytes may crash it, hang it or eat its memory.

    with Sandbox(partial(transform, settings=settings)) as box:
        future = box.submit(data)

Only the item at fault pays: it is tried once more, alone, in a fresh child, and only when that
child ends too does its future raise CrashedError. So no item is blamed for another's damage, nor
for a child that was killed from outside.

The two ends speak over one socket: pickled arguments down, pickled answers up, first in, first
out. The child's half is `curation.sandbox_child`, which imports little else.
"""

import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from curation.sandbox_child import BUFFER, LENGTH, OUT_OF_MEMORY
from infra.errors import SluiceError

DEADLINE = 30.0  # seconds an item may take
MEMORY = 2 * 2**30  # bytes of address space beyond what the child has after its imports

# Each waking of a thread costs as much as the copying of an image. So while the child has more
# than this many items before it, what is new waits for the next answers, and answers gather.
ENOUGH = 24
GATHER = 0.005  # seconds
QUEUE = 2**20  # bytes on the way to the child, and back, where the system allows as many

_ENVIRONMENT = {
    # One thread is all the child has use for, and each one of OpenBLAS reserves address space.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Pictures of the same size come and go: to give their memory back to the system and ask for
    # it again takes as long as the arithmetic on them (1.1 against 2.5 ms for 256 to 224 pixels).
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**25),
}

End: TypeAlias = Literal["crashed", "hung", "out of memory"]


class CrashedError(Exception):
    """The child did not survive an item; `value` says how it ended."""

    def __init__(self, value: End) -> None:
        super().__init__(value)
        self.value: End = value


class _Unpickler(pickle.Unpickler):
    """Takes plain values and the classes of one module, nothing else.

    A child that hostile bytes have taken over must not reach its parent through a pickle.
    """

    def __init__(self, data: bytes, module: str) -> None:
        super().__init__(io.BytesIO(data))
        self._module = module

    def find_class(self, module: str, name: str) -> Any:
        found = getattr(sys.modules.get(module), name, None) if module == self._module else None
        if isinstance(found, type) and found.__module__ == module:
            return found
        raise pickle.UnpicklingError(f"{module}.{name} is no answer")


class _Child:
    """A running child and this end of the socket to it."""

    def __init__(self, hello: bytes) -> None:
        self._socket, theirs = socket.socketpair()
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE)
        self._buffer = bytearray(BUFFER)  # one for all: fresh memory costs more than the copying
        self._held = 0  # bytes in it
        environment = {**os.environ, **_ENVIRONMENT}
        environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "curation.sandbox_child", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent
            )
        self.pid = self._process.pid
        self.kill = self._process.kill
        self._socket.sendall(hello)

    def send(self, pieces: deque[memoryview], wait: bool) -> bool:
        """Send some of `pieces` and take it out of them; without `wait` only what goes at once.

        False where nothing went: full; or the child is gone, which is for `answers` to say.
        """
        try:
            sent = self._socket.sendmsg(pieces, [], 0 if wait else socket.MSG_DONTWAIT)
        except OSError:
            return False
        while pieces and sent >= len(pieces[0]):
            sent -= len(pieces.popleft())
        if sent:
            pieces[0] = pieces[0][sent:]
        return True

    def answers(self) -> list[bytes]:
        """The next answers, at least one; none when the child is gone."""
        found: list[bytes] = []
        while not found:
            with memoryview(self._buffer) as free:
                try:
                    count = self._socket.recv_into(free[self._held :])
                except OSError:  # it left with items unread
                    count = 0
            if not count:
                return []
            self._held += count
            start = self._cut(found)
            self._held -= start
            self._buffer[: self._held] = self._buffer[start : start + self._held]
        return found

    def _cut(self, found: list[bytes]) -> int:
        """Copy the whole answers out of the buffer; gives where the part of another begins."""
        start = 0
        while (begin := start + LENGTH.size) <= self._held:
            end = begin + LENGTH.unpack_from(self._buffer, start)[0]
            if end > self._held:
                self._buffer.extend(bytes(max(end - start - len(self._buffer), 0)))
                break
            found.append(bytes(memoryview(self._buffer)[begin:end]))
            start = end
        return start

    def end(self) -> End:
        """Make sure that it is gone, and say how it went."""
        self._socket.close()
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:  # it lives, but what it says is no answer
            self.kill()
            code = self._process.wait()
        if code == -signal.SIGALRM:
            return "hung"
        return "out of memory" if code == OUT_OF_MEMORY else "crashed"


@dataclass(eq=False)
class _Job:
    payload: bytes  # the pickled arguments
    future: Future[Any]
    begun: bool = False  # too late to cancel it
    suspect: bool = False  # a child ended while it worked on this


class Sandbox:
    """Runs `function` on items, one after another, in one child that is started when needed.

    function: picklable, pure, importable where the child runs; its results are plain values or
    classes of its own module. deadline: seconds an item may take. memory: bytes it may take.
    Calls may come from any thread; how many items wait is up to the caller.
    """

    def __init__(
        self, function: Callable[..., Any], deadline: float = DEADLINE, memory: int = MEMORY
    ) -> None:
        plain = function.func if isinstance(function, partial) else function
        self._module = str(plain.__module__)
        self._hello = pickle.dumps(pickle.dumps((function, deadline, memory)))
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[_Job] = deque()
        self._sent: deque[_Job] = deque()  # the first of them is in work
        self._pieces: deque[memoryview] = deque()  # of what is being sent
        self._child: _Child | None = None
        self._ready = False  # the child has said that it is
        self._closed = False

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        child = self._child
        return child.pid if child else None

    def submit(self, *args: Any) -> Future[Any]:
        """The future of `function(*args)`. It raises CrashedError where no child survived that.

        Or SluiceError, where the function raised or no child can be started.
        """
        job = _Job(pickle.dumps(args, pickle.HIGHEST_PROTOCOL), Future())
        with self._changed:
            if self._closed:
                raise RuntimeError("the sandbox is closed")
            if self._thread.ident is None:
                self._thread.start()
            self._waiting.append(job)
            if len(self._sent) <= ENOUGH:
                self._send()
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """End the child at once; what it has not answered is cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            if self._child:
                self._child.kill()
        if self._thread.ident is not None:
            self._thread.join()
        self._fail(CancelledError())

    def _run(self) -> None:
        """The thread: starts a child when there is work, hears it, and judges its end."""
        while self._start():
            child = self._child
            assert child is not None
            self._hear(child)
            how = child.end()
            with self._changed:
                self._child, self._ready = None, False
                self._pieces.clear()
                again, self._sent = self._sent, deque()
                self._waiting.extendleft(reversed(again))
            if again and not self._closed:
                self._judge(again[0], how)

    def _start(self) -> bool:
        """Wait for work and start a child; False when the sandbox is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return False
                try:
                    self._child = _Child(self._hello)
                    return True
                except OSError as error:
                    failed = self._failed(f"no process could be started: {error}")
            self._fail(failed)

    def _hear(self, child: _Child) -> None:
        """Take the child's answers, and send what waits, until it ends or talks nonsense."""
        while received := child.answers():
            try:
                answers = [_Unpickler(data, self._module).load() for data in received]
                results = [(result, error) for result, error in answers]
            except Exception:
                return
            if self._ready:
                self._settle(results)
            elif results[0][1] is not None:
                return self._fail(self._failed(results[0][1]))
            with self._changed:
                self._ready = True
                self._send()
            if len(self._sent) > ENOUGH:
                time.sleep(GATHER)
        if not self._ready and not self._closed:
            self._fail(self._failed("its process ended at once"))

    def _settle(self, results: list[tuple[Any, str | None]]) -> None:
        with self._changed:
            done = [(self._sent.popleft().future, *result) for result in results]
        for future, result, error in done:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(self._failed(error))

    def _send(self) -> None:
        """Pass on as much as the child takes without waiting; called with the lock held.

        The only item on its way is waited for: its child reads, and has nothing left to answer
        that could be an occasion to send the rest.
        """
        if self._child is None or not self._ready:
            return
        while self._pieces or self._next():
            if not self._child.send(self._pieces, wait=len(self._sent) == 1):
                return

    def _next(self) -> bool:
        """Make what waits the next to be sent, a batch of small items or one; a suspect alone."""
        size = 0
        while self._waiting and size < BUFFER:
            if self._sent and (self._sent[-1].suspect or self._waiting[0].suspect):
                break
            job = self._waiting.popleft()
            if job.begun or job.future.set_running_or_notify_cancel():
                job.begun = True
                self._sent.append(job)
                self._pieces.append(memoryview(job.payload))
                size += len(job.payload)
        return bool(self._pieces)

    def _judge(self, job: _Job, how: End) -> None:
        """Of the item that was in work when the child ended."""
        if not job.suspect:
            job.suspect = True
            return
        with self._changed:
            self._waiting.remove(job)
        job.future.set_exception(CrashedError(how))

    def _failed(self, text: str) -> SluiceError:
        return SluiceError(f"the sandbox of {self._module} failed: {text}", "report this")

    def _fail(self, error: BaseException) -> None:
        """Nothing of what waits can be done."""
        with self._changed:
            jobs = [*self._sent, *self._waiting]
            self._sent.clear()
            self._waiting.clear()
        for job in jobs:
            if job.begun or job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)
