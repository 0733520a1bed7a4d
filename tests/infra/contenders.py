"""What tests run in several processes at once: apart, so that these start without pytest."""

from infra.artifacts import Spec, commit
from infra.filesystem import put_if_absent

SPEC = Spec("scores", "test", {"threshold": 0.5}, parents=("0123456789abcdef",))


def put(task: tuple[str, int]) -> bool:
    folder, writer = task
    return put_if_absent(folder, "manifest.json", str(writer).encode() * 1000)


def commit_content(url: str) -> str:
    return commit(url, SPEC).content
