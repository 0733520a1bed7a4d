"""Which pipeline draws: where it is, what it is called, and a name for what it holds.

A pipeline is a folder in diffusers' layout, `model_index.json` and a folder for each part, or
hf-hub:OWNER/NAME. It is looked at before anything is loaded, without PyTorch: a checkpoint from
the internet may lack a part, hold its weights as pickles, or ask for code of its own to be run.
"""

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from curation.fingerprint import file_states
from curation.networks import HUB, INSTALL, LIBRARIES, local_folder
from infra.digests import digest
from infra.errors import SluiceError

INDEX = "model_index.json"
LOADED = (".json", ".txt", ".model", ".safetensors")  # what is read of a part's folder
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack")
SAFETY = "safety_checker"
WITHOUT_WEIGHTS = re.compile("Tokenizer|Scheduler|Processor|FeatureExtractor")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Model:
    """A pipeline to draw with.

    name: as rows tell it: the hub's, or the folder's own, never where that lies. content: of a
    folder the fingerprint of its files, of a hub's repository the commit, which names them too.
    """

    name: str
    content: str
    location: str
    commit: str | None = None  # of a hub's repository


def find_model(
    location: str, revision: str | None, safety: bool, store: str | None = None
) -> Model:
    """The pipeline that a recipe names. The store remembers the hashes of its files.

    Raises SluiceError for one that cannot be what is asked for: see `check_folder`. That of a hub
    is looked at when it is there; here only its commit is asked for, or found in the cache.
    """
    if location.startswith(HUB):
        name = location.removeprefix(HUB)
        if not _REPOSITORY.fullmatch(name):
            raise SluiceError(f"{location} names no repository", f"write {HUB}OWNER/NAME")
        commit = _commit(name, revision)
        return Model(name, commit, name, commit)
    if revision is not None:
        raise SluiceError(
            f"a folder has no revision {revision!r}", f"leave it out, or name {HUB}OWNER/NAME"
        )
    folder = local_folder(location, f"a pipeline is a folder, or {HUB}OWNER/NAME")
    check_folder(folder, safety)
    return Model(folder.name, fingerprint(folder, store), str(folder))


def fingerprint(folder: Path, store: str | None = None) -> str:
    """16 hex characters over the configuration and every weight file, wherever the folder lies."""
    files = sorted(_files(folder))
    states = file_states([str(file) for file in files], store)
    names = [file.relative_to(folder).as_posix() for file in files]
    return digest([[name, *state] for name, state in zip(names, states, strict=True)])


def _files(folder: Path) -> Iterator[Path]:
    """The files that loading may read: pictures, other frameworks' weights and such are none."""
    yield folder / INDEX
    for part in parts(folder):
        yield from (file for file in (folder / part).rglob("*") if file.suffix in LOADED)


def parts(folder: Path) -> dict[str, tuple[str, str]]:
    """The parts that a pipeline has, with library and class. SluiceError where it is none."""
    index = read_index(folder)
    found: dict[str, tuple[str, str]] = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        library, kind = _pair(folder, name, cast(list[Any], value))
        if library is not None and kind is not None:
            found[name] = library, kind
    return found


def _pair(folder: Path, name: str, value: list[Any]) -> tuple[str | None, str | None]:
    """Library and class of a part; two times None for one that a pipeline does without."""
    if value == [None, None]:
        return None, None
    plain = [name, *value]
    if len(plain) != 3 or not all(
        isinstance(text, str) and _PLAIN.fullmatch(text) for text in plain
    ):
        raise SluiceError(
            f"{folder / INDEX}: {name!r} is no part of a pipeline: {str(value)[:100]}",
            "each part is a name with a library and a class",
        )
    return value[0], value[1]


def read_index(folder: Path) -> Mapping[str, Any]:
    """What `model_index.json` holds; its `_class_name` is a class of diffusers."""
    path = folder / INDEX
    if not path.is_file():
        raise SluiceError(
            f"{folder} is no diffusers pipeline: it has no {INDEX}",
            "save it with diffusers' save_pretrained; a single file of weights is none",
        )
    try:
        index = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SluiceError(f"{path} is not JSON: {error}", "take the folder anew") from error
    kind: Any = cast(dict[str, Any], index).get("_class_name") if isinstance(index, dict) else None
    if isinstance(kind, list):
        raise SluiceError(
            f"{path} asks for code of its own, {kind}", "name a pipeline that diffusers itself has"
        )
    if not isinstance(kind, str) or not _PLAIN.fullmatch(kind):
        raise SluiceError(f"{path} names no pipeline as _class_name", "take the folder anew")
    return cast(Mapping[str, Any], index)


def check_folder(folder: Path, safety: bool) -> None:
    """Refuse a folder that cannot be loaded, or not safely, before anything of it is.

    Raises SluiceError for parts that are missing, that hold no safetensors or code of their own,
    and, where `safety` is on, for a pipeline without a safety checker.
    """
    found, index = parts(folder), read_index(folder)
    for name, (library, kind) in found.items():
        _check_part(folder, name, library, kind)
    if not found:
        raise SluiceError(f"{folder / INDEX} names no part", "take the folder anew")
    if safety and SAFETY not in found:
        raise SluiceError(
            f"{folder} ({index['_class_name']}) has no safety checker, so that nothing would look "
            "for unsafe images",
            "say `safety: off`, and let rules judge the images; or name a pipeline with a checker",
        )


def _check_part(folder: Path, name: str, library: str, kind: str) -> None:
    place = folder / name
    if not place.is_dir():
        raise SluiceError(
            f"{folder} has no part {name!r}, which its {INDEX} names", "take the folder anew"
        )
    own_code = (place / f"{library}.py").exists()
    if own_code or (library not in LIBRARIES and not _is_pipeline_module(library)):
        raise SluiceError(
            f"{folder}: its part {name!r} asks for code of its own, {library}.{kind}",
            f"name a pipeline whose parts are of {' and '.join(LIBRARIES)}",
        )
    if WITHOUT_WEIGHTS.search(kind):
        return
    names = [file.name for file in place.iterdir()]
    if any(file.endswith(".safetensors") for file in names):
        return
    pickles = [file for file in names if file.endswith(PICKLES)]
    what = f"only as {pickles[0]}, which may run code when it is read" if pickles else "nowhere"
    raise SluiceError(
        f"{folder}: the weights of its part {name!r} are {what}",
        "save the pipeline with safe_serialization=True, or take one with .safetensors files",
    )


def _is_pipeline_module(name: str) -> bool:
    """Whether diffusers has a pipeline module of that name, such as that of a safety checker."""
    found = importlib.util.find_spec("diffusers")
    if found is None or found.origin is None:
        raise SluiceError("diffusers is not installed", INSTALL)
    return (Path(found.origin).parent / "pipelines" / name / "__init__.py").is_file()


def _commit(name: str, revision: str | None) -> str:
    """The commit that a revision of a hub's repository stands for now; of the cache, if offline."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    import huggingface_hub

    from indexes.hub import hub_reachable

    if hub_reachable():
        try:
            return str(huggingface_hub.HfApi().repo_info(name, revision=revision, timeout=30).sha)
        except Exception as error:  # whatever the layers below raised
            raise SluiceError(
                f"the hub does not give {name}: {' '.join(str(error).split())[:200]}",
                "check its name, its revision, and whether you may read it",
            ) from error
    cached = huggingface_hub.try_to_load_from_cache(name, INDEX, revision=revision)
    if not isinstance(cached, str):
        raise SluiceError(
            f"{name} is not in the cache of this machine, and its hub was not reached",
            "connect, or name a folder",
        )
    return Path(cached).parent.name
