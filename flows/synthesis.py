"""The steps that make sources from settings alone."""

from curation.synthetic import fractals
from curation.synthetic.settings import FractalSettings
from flows.step import Step, sharded


def fractals_step(settings: FractalSettings, store: str) -> Step:
    """Makes the fractals of a recipe a dataset version, drawn when it is read, or stored."""
    draft = fractals.fractals_draft(store, settings)
    work = fractals.fractals_work(draft.url, settings)
    return sharded(
        "fractals",
        "synthesize",
        {"": draft},
        lambda: fractals.fractal_items(settings),
        work,
        publishes=fractals.DATASET,
        extra=work.extra,
    )
