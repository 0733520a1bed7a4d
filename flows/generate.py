"""The steps that make a pool of generated images: its prompts, then its shards."""

from collections.abc import Iterator, Sequence

from curation.generate import prompts, work
from curation.generate.model import find_model
from curation.generate.settings import TRUSTED, GenerateSettings
from flows.step import Step, sharded
from flows.versions import named_version, standing
from infra.artifacts import load
from infra.errors import SluiceError
from infra.stage import Draft, Item

POOL, PROMPTS = "pool", "prompts"


def generate_steps(settings: GenerateSettings, store: str, trusted: Draft | None) -> Iterator[Step]:
    """From prompts on; trusted: the recipe's split of that name, where it has one.

    Raises SluiceError for a model, a version or a file that is not there.
    """
    captions = _captions(settings, store, trusted)
    model = find_model(settings.model, settings.revision, settings.safety, store)
    listed = prompts.prompts_draft(store, POOL, settings.prompts, captions)
    yield sharded(
        PROMPTS,
        "ingest",
        {"": listed},
        lambda: [prompts.ALL],
        prompts.PromptsWork(listed.url, settings.prompts, captions and captions[0]),
        [f"ingest {TRUSTED}"] if settings.prompts.captions == TRUSTED else (),
    )
    drawn = standing(store, [work.generate_draft(store, POOL, settings, model, listed)])

    def items() -> Sequence[Item]:
        made = load(listed.url)
        if made is None:
            raise SluiceError("the prompts are not there yet", "run the recipe from the start")
        return work.generate_items(settings, made)

    yield sharded(
        f"ingest {POOL}",
        "ingest",
        {"": drawn},
        items,
        work.GenerateWork(drawn.url, listed.url, settings, model, work.precision(settings)),
        [PROMPTS],
        publishes=POOL,
        extra=work.refuse_nothing,
        gpu=True,
    )


def _captions(
    settings: GenerateSettings, store: str, trusted: Draft | None
) -> tuple[str, str] | None:
    """URL and digest of the version whose captions are prompts."""
    key, name = "data.generate.prompts.captions", settings.prompts.captions
    if name is None:
        return None
    if name == TRUSTED:
        if trusted is None:
            raise SluiceError(
                f"{key} is {TRUSTED!r}, the recipe has no such split", "give data.trusted"
            )
        return trusted.url, trusted.spec.digest
    found = named_version(store, name, key)
    return found.url, found.digest
