"""`index --plan`: which kind of index would be built of a version, and why."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from flows.cli import FAILED, app
from flows.main import Options
from flows.plan import plan, plan_dataset
from indexes.building import pinned
from indexes.settings import IndexSettings
from infra.dataset import open_dataset
from infra.errors import SluiceError
from tests.flows.conftest import SMALL
from tests.indexes.conftest import PER_SHARD, TINY, make_index, make_store

DIMENSION = TINY["embed_dim"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store whose pool and curated version have vectors, and whose pool is indexed."""
    url = make_store(tmp_path_factory.mktemp("planned"))
    make_index(url, "pool", pinned(open_dataset(url, "pool"), IndexSettings()))
    return url


def planned(store: str, name: str, changes: Sequence[str] = ()) -> str:
    """The plan of a version in one line, and that making it changed no file."""
    before = {path: path.stat().st_mtime_ns for path in Path(store).rglob("*")}
    text = plan_dataset(Options(None, tuple(changes), store), name)
    assert before == {path: path.stat().st_mtime_ns for path in Path(store).rglob("*")}
    assert text.endswith("nothing was written")
    return " ".join(text.split())


def test_a_plan_of_a_version_tells_the_kind_and_why(store: str) -> None:
    curated = open_dataset(store, "curated").artifact
    kept = curated.totals["kept"]
    text = planned(store, "curated")
    assert text.startswith(f"index of curated@{curated.digest} in {store}")
    assert f"kind of index: flat ({kept} vectors of {DIMENSION} dimensions: few enough" in text
    assert f"index codes to do {2 * PER_SHARD}" in text
    assert "last time in this store" in text  # its codes cost a row what those of the pool did
    assert planned(store, f"curated@{curated.digest}") == text
    lists = int(4 * kept**0.5)
    text = planned(store, "curated", ["index.kind=ivf_sq8"])
    assert f"kind of index: ivf_sq8 of {lists} lists (as the settings say)" in text
    text = planned(store, "curated", ["index.dimensions=8"])
    assert f"flat ({kept} vectors of 8 dimensions" in text


def test_a_plan_of_an_indexed_version_tells_what_is_there(store: str) -> None:
    text = planned(store, "pool")
    assert f"kind of index: flat ({2 * PER_SHARD} vectors of {DIMENSION} dimensions" in text
    assert "recall@10: image 1.0000, text 1.0000" in text
    assert "to do: 0 of 3 steps" in text
    pool = open_dataset(store, "pool").artifact.digest
    text = planned(store, "curated", [f"index.after=pool@{pool}"])
    assert f"flat ({2 * PER_SHARD} vectors" in text
    assert f"its quantizer is that of pool@{pool}" in text
    assert "to do: 2 of 2 steps" in text


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("curated@0123456789abcdef", "seed=0", "curated@0123456789abcdef is not in"),
        ("nothing", "seed=0", "no dataset 'nothing' in"),
        ("curated", "index.embedding=clip/sound", "no vectors 'sound'"),
        ("curated", "index.embedding=other/image", "no scores 'other'"),
        ("curated", "index.dimensions=999", f"index.dimensions=999, .*/image has {DIMENSION}"),
        ("curated", "index.after=pool@0123456789abcdef", "index.after names pool@0123456789abcdef"),
    ],
)
def test_what_cannot_be_indexed_is_told_by_the_plan(
    store: str, name: str, change: str, message: str
) -> None:
    with pytest.raises(SluiceError, match=message):
        planned(store, name, [change])


def test_the_command_line_plans_a_version(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        app(["index", "--dataset", "curated", "--store", store, "--plan"])
    assert not stopped.value.code
    assert "kind of index: flat (" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        app(["index", "--dataset", "curated@0123", "--store", store, "--plan"])
    assert stopped.value.code == FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: curated@0123 is not in ")
    assert "\n  way out: " in captured.err


def test_a_plan_of_a_recipe_tells_the_kind_once_it_can(tmp_path: Path, curated_store: Path) -> None:
    fresh = str(tmp_path / "fresh")
    text = " ".join(plan(Options(None, SMALL, fresh), "index").split())
    assert "kind of index: cannot be told before the version is there" in text
    text = plan(Options(None, (*SMALL, "index.kind=hnsw"), fresh), "index")
    assert "kind of index: hnsw (as the settings say)" in text
    assert "kind of index" not in plan(Options(None, SMALL, fresh), "curate")
    assert not Path(fresh).exists()
    before = sorted(curated_store.rglob("*"))
    kept = open_dataset(str(curated_store), "curated").artifact.totals["kept"]
    text = plan(Options(None, SMALL, str(curated_store)), "index")
    assert f"kind of index: flat ({kept} vectors of 64 dimensions: few enough" in text
    wrong = (*SMALL, "index.embedding=clip/sound")
    text = " ".join(plan(Options(None, wrong, str(curated_store)), "index").split())
    assert "kind of index: cannot be told yet:" in text and "no vectors 'sound'" in text
    assert before == sorted(curated_store.rglob("*"))
