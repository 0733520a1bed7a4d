"""`export`: a dataset version in another tool's layout, in a folder of one's own."""

from curation.embedding_export import export_embeddings
from curation.export import ExportSettings, ExportWork, export_draft, export_items, masks_url
from curation.subset_file import write_subset
from flows.main import Options, store_url
from flows.recipe import load_recipe
from flows.settings import validate
from infra.dataset import open_dataset
from infra.progress import Display
from infra.stage import run_stage


def export(options: Options, name: str, target: str, display: Display, **settings: object) -> str:
    """Write the version NAME or NAME@VERSION of the store to the folder `target`, and say so.

    settings: of ExportSettings. A killed export goes on where it was; the recipe's `run` says
    where the work is done.
    """
    chosen = validate(ExportSettings, settings, "the export")
    run = load_recipe(options.recipe, options.overrides).run
    version = open_dataset(store_url(options.store), name).artifact
    masks = masks_url(version) if chosen.drop_patches else None
    target = store_url(target)
    draft = export_draft(target, version, chosen)
    work = ExportWork(draft.url, version.url, chosen, masks)
    with display, run.runner() as runner:
        items = export_items(version, chosen)
        made = run_stage(f"export {name}", {"": draft}, items, work, runner, display)[""]
    return f"{made.totals['kept']} samples in {made.totals['parts']} shards: {target}"


def export_subset(options: Options, name: str, target: str, verdicts: str | None = None) -> str:
    """Write the uids of NAME or NAME@VERSION, or those that verdicts keep, to the file `target`."""
    target = store_url(target)
    dataset = open_dataset(store_url(options.store), name)
    return f"{write_subset(dataset, target, verdicts)} uids: {target}"


def export_vectors(options: Options, name: str, target: str, layout: str, scorer: str) -> str:
    """Write the embeddings of NAME or NAME@VERSION to the folder `target`, as `layout` says."""
    target = store_url(target)
    dataset = open_dataset(store_url(options.store), name)
    return f"{export_embeddings(dataset, target, layout, scorer)} embeddings: {target}"
