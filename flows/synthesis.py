"""The steps that make sources from settings alone."""

from curation.synthetic import fractals
from curation.synthetic.settings import FractalSettings
from flows.step import Step, sharded


def fractals_step(settings: FractalSettings, store: str) -> Step:
    """Draws the fractals of a recipe and writes them as a dataset version."""
    draft = fractals.fractals_draft(store, settings)
    return sharded(
        "fractals",
        "synthesize",
        {"": draft},
        lambda: fractals.fractal_items(settings),
        fractals.FractalsWork(draft.url, settings),
        publishes="fractals",
    )
