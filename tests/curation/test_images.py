"""Images go through the child process in groups; only the one at fault is refused."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from skimage import data

from curation import images, outcomes
from curation.fetch.blocklist_settings import BlocklistSettings
from curation.fetch.blocklists import Blocklists
from curation.images import Images
from curation.intake import Intake, _tools, whole
from curation.perceptual import phash
from curation.resize_settings import ResizeSettings
from curation.sandbox import Sandbox
from curation.sources.base import Original, Record
from infra.errors import PauseError
from tests.curation import hostile
from tests.curation.fetch.server import jpeg

NO_LISTS = Blocklists.load(BlocklistSettings.model_validate({}))


@pytest.fixture
def worked() -> Iterator[Images]:
    made = Images(None, NO_LISTS)
    made._box = Sandbox(hostile.prepare_all)
    yield made
    made.close()


def test_only_the_image_at_fault_is_refused_and_order_is_kept(worked: Images) -> None:
    records = [Record(str(n), image=b"image %d" % n) for n in range(100)]
    records[5] = Record("5", image=b"crash")
    records[40] = Record("40", reason=outcomes.BAD_URL)
    records[41] = Record("41", image=b"crash")
    records[77] = Record("77", image=b"broken")
    made = list(worked.prepared(iter(records)))
    assert [record.source for record in made] == [str(n) for n in range(100)]
    reasons = {int(record.source): record.reason for record in made if record.reason}
    failed = outcomes.DECODE_FAILED
    assert reasons == {5: failed, 40: outcomes.BAD_URL, 41: failed, 77: failed}
    for number, record in enumerate(made):
        if number not in reasons:
            assert record.image == b"IMAGE %d" % number
            sha256 = hashlib.sha256(b"image %d" % number).hexdigest()
            assert record.original == Original(sha256, 2, 2)


def test_broken_images_alone_do_not_stop_a_run() -> None:
    made = Images(ResizeSettings.model_validate({"mode": "keep_ratio", "size": 8}), NO_LISTS)
    broken = [Record(str(n), image=jpeg(1)[:300]) for n in range(200)]
    assert all(record.reason for record in made.prepared(iter(broken)))
    made.close()


def test_a_library_that_decodes_nothing_stops_it(worked: Images) -> None:
    broken = (Record(str(n), image=b"broken") for n in range(200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "SOUND", b"broken")
        with pytest.raises(PauseError, match="decode_failed"):
            list(worked.prepared(broken))


def test_pictures_like_a_listed_one_are_refused(tmp_path: Path) -> None:
    def coded(quality: int, flip: bool = False) -> bytes:
        picture, buffer = Image.fromarray(data.astronaut()), io.BytesIO()
        if flip:
            picture = picture.transpose(Image.Transpose.ROTATE_90)
        picture.save(buffer, "JPEG", quality=quality)
        return buffer.getvalue()

    grey = Image.fromarray(np.asarray(data.astronaut())).convert("L")
    listed = tmp_path / "phash.txt"
    listed.write_text(f"{int(phash([grey])[0]):016x}\n")
    lists = Blocklists.load(BlocklistSettings.model_validate({"phash": str(listed)}))
    made = Images(None, lists)
    records = [Record("a", image=coded(90)), Record("b", image=coded(40)),
               Record("c", image=coded(90, flip=True))]  # fmt: skip
    found = [record.reason for record in made.prepared(iter(records))]
    assert found == [outcomes.BLOCKLISTED, outcomes.BLOCKLISTED, None]
    made.close()


def test_another_intake_puts_the_processes_of_the_last_one_away() -> None:
    settings = ({"mode": "keep_ratio", "size": 8}, {"mode": "keep_ratio", "size": 9})
    boxes = []
    for each in settings:
        chosen = Intake(resize=ResizeSettings.model_validate(each))
        assert len(list(whole(iter([Record("a", image=jpeg(1))]), chosen))) == 1
        boxes.append(psutil.Process(_tools(chosen).images._box.pid))
    assert not boxes[0].is_running() or boxes[0].status() == psutil.STATUS_ZOMBIE
    assert boxes[1].is_running()
