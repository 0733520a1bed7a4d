"""Captions by varied templates; every caption names its concept."""

import numpy as np

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

NOUNS = {
    "astronaut": ("an astronaut", "an astronaut in an orange suit", "a smiling astronaut"),
    "brick": ("a brick wall", "bricks and mortar", "a wall of grey bricks"),
    "camera": ("a man with a camera", "a photographer with a camera", "a camera on a tripod"),
    "cat": ("a cat", "a ginger cat", "a tabby cat"),
    "clock": ("a blurred clock", "a clock in motion", "a moving clock"),
    "coffee": ("a cup of coffee", "an espresso coffee", "coffee on a wooden table"),
    "coins": ("old coins", "ancient coins", "coins from a museum"),
    "grass": ("grass", "blades of grass", "dry grass"),
    "gravel": ("gravel", "loose gravel", "a bed of gravel"),
    "galaxies": ("distant galaxies", "galaxies in deep space", "a sky full of galaxies"),
    "tissue": ("stained tissue", "tissue under a microscope", "a section of stained tissue"),
    "moon": ("the moon", "the surface of the moon", "craters on the moon"),
    "page": ("a printed page", "a page of a book", "a scanned page"),
    "retina": ("a retina", "the retina of an eye", "blood vessels of a retina"),
    "rocket": ("a rocket", "a rocket on its launch pad", "a rocket at night"),
    "formula": ("a handwritten formula", "a formula on paper", "a mathematical formula"),
    "cell": ("a cell", "a cell under a microscope", "a single living cell"),
    "motorcycle": ("a motorcycle", "a red motorcycle", "a motorcycle in a garage"),
    "temple": ("a temple", "a Chinese temple", "a temple by a lake"),
    "flower": ("a flower", "an orange flower", "a dahlia flower"),
}

PHOTO_TEMPLATES = (
    "a photo of {noun}",
    "a picture of {noun}",
    "{noun}",
    "a photograph showing {noun}",
    "{noun}, stock photo",
    "an image of {noun}",
    "this is {noun}",
    "here you see {noun}",
    "my favourite picture of {noun}",
)
CLOSE_TEMPLATES = (
    "a close-up of {noun}",
    "a detail of {noun}",
    "{noun}, seen from close by",
    "{noun} (detail)",
)
WIDE_TEMPLATES = ("a wide view of {noun}", "{noun}, the whole scene", "a large picture of {noun}")

DIGIT_TEMPLATES = (
    "a handwritten {word}",
    "the digit {figure}",
    "the digit {word}, written by hand",
    "the number {word}",
    "a photo of the number {word}",
    "handwriting: the figure {figure}",
    "someone wrote {figure}",
    "a handwritten {word} in {ink} on {paper}",
    "the number {figure} in {ink} ink on {paper} paper",
)


def photo_caption(concept: str, zoom: float, rng: np.random.Generator) -> str:
    """A caption of a crop; `zoom` is its side as a share of the photograph's shorter side."""
    templates = PHOTO_TEMPLATES
    if zoom < 0.35:
        templates = PHOTO_TEMPLATES + CLOSE_TEMPLATES
    elif zoom > 0.75:
        templates = PHOTO_TEMPLATES + WIDE_TEMPLATES
    nouns = NOUNS[concept]
    return templates[rng.integers(len(templates))].format(noun=nouns[rng.integers(len(nouns))])


def digit_caption(digit: int, ink: str, paper: str, rng: np.random.Generator) -> str:
    """A caption of a handwritten digit; `ink` and `paper` are the names of its colours."""
    template = DIGIT_TEMPLATES[rng.integers(len(DIGIT_TEMPLATES))]
    return template.format(word=DIGITS[digit], figure=digit, ink=ink, paper=paper)
