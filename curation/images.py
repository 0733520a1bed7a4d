"""The images of records through a child process that decodes, resizes and hashes them.

They go in groups: what it costs to pass something to another process is paid once for several
small images. A group that ends its child is done again image by image, so that only the one at
fault is refused.
"""

import base64
import functools
import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from curation import outcomes
from curation.fetch.blocklists import Blocklists
from curation.fetch.breaker import Breaker
from curation.prepare import Boxes, Made, prepare_all
from curation.resize import Transformed
from curation.resize_settings import ResizeSettings
from curation.sandbox import CrashedError, Sandbox
from curation.sources.base import Original, Record
from infra.errors import PauseError

GROUP, GROUP_BYTES = 32, 2**21  # images that go together, fewer where they are large
AHEAD = 4  # groups on their way at once
# A grey JPEG of 8 x 8 pixels: where not even this can be decoded, it is not the images' fault.
SOUND = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4n"
    "ICIsIxwcKDcpLDAxNDQ0Hyc5PTgyPC4zNDL/wAALCAAIAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/E"
    "ABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AP//Z"
)

Item = tuple[bytes, Boxes | None]


@dataclass
class _Group:
    """Records in their order, the images among them, and what is to become of these."""

    records: list[Record] = field(default_factory=list[Record])
    items: list[Item] = field(default_factory=list[Item])
    bytes: int = 0
    future: Future[list[Made]] | None = None

    @property
    def full(self) -> bool:
        return len(self.items) == GROUP or self.bytes >= GROUP_BYTES


class Images:
    """The child process of one worker, kept from shard to shard."""

    def __init__(self, resize: ResizeSettings | None, lists: Blocklists) -> None:
        self._resize, self._lists = resize, lists
        hashed = lists.phash is not None
        self._box = Sandbox(functools.partial(prepare_all, settings=resize, hashed=hashed))
        self._breaker, self._count = Breaker(), 0

    def close(self) -> None:
        self._box.close()

    def prepared(self, records: Iterator[Record]) -> Iterator[Record]:
        """The records in their order, each with its image as it is to be stored, or a reason.

        Raises PauseError where not even a sound image can be decoded.
        """
        column = self._resize.blur if self._resize else None
        waiting: deque[_Group] = deque()
        group = _Group()
        for record in records:
            group.records.append(record)
            if record.reason is None and record.image is not None:
                boxes = record.meta.get(column) if column else None
                group.items.append((record.image, boxes))
                group.bytes += len(record.image)
            if group.full:
                waiting.append(self._submit(group))
                group = _Group()
            while waiting and (len(waiting) > AHEAD or _done(waiting[0])):
                yield from self._taken(waiting.popleft())
        waiting.append(self._submit(group))
        for group in waiting:
            yield from self._taken(group)

    def _submit(self, group: _Group) -> _Group:
        if group.items:
            group.future = self._box.submit(group.items)
        return group

    def _taken(self, group: _Group) -> Iterator[Record]:
        made = iter(self._made(group))
        for record in group.records:
            if record.reason is None and record.image is not None:
                record = self._changed(record, next(made))
                self._watch(record.reason)
            yield record

    def _made(self, group: _Group) -> Sequence[Made | None]:
        """What became of each image of a group; None for one that ends its child."""
        if group.future is None:
            return []
        try:
            return group.future.result()
        except CrashedError:
            return [self._alone(item) for item in group.items]

    def _alone(self, item: Item) -> Made | None:
        try:
            return self._box.submit([item]).result()[0]
        except CrashedError:
            return None

    def _changed(self, record: Record, prepared: Made | None) -> Record:
        """The record with what became of its image."""
        if prepared is None or record.image is None:
            return replace(record, image=None, reason=outcomes.DECODE_FAILED)
        fields, phash = prepared
        if phash is not None and self._lists.lists_phash(phash):
            return replace(record, image=None, reason=outcomes.BLOCKLISTED)
        made = Transformed(*fields) if fields else None
        if made is None or (made.reason is None and made.data is None):
            return record  # the bytes stay as they are
        size = made.original_width, made.original_height
        if made.data is None:
            return replace(record, image=None, reason=made.reason, original=Original(None, *size))
        original = Original(hashlib.sha256(record.image).hexdigest(), *size)
        return replace(record, image=made.data, tar=None, original=original)

    def _watch(self, reason: str | None) -> None:
        """Where nearly all images fail, a sound one is tried."""
        self._count += 1
        if self._breaker.note(self._count, reason) != outcomes.DECODE_FAILED:
            return
        what, way_out = self._breaker.describe(outcomes.DECODE_FAILED)
        self._breaker.forget()
        made = self._alone((SOUND, None))
        fields = made[0] if made else None
        if made is None or (fields and Transformed(*fields).reason == outcomes.DECODE_FAILED):
            raise PauseError(f"{what} images", way_out)


def _done(group: _Group) -> bool:
    return group.future is None or group.future.done()
