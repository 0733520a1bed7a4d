"""Settings of the scores that a recipe asks for by name. Light: imports no engine."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from curation.heads.card import EMBEDDING, Polarity
from curation.heads.settings import ImageVectors
from curation.rules_settings import VectorName

ScoreName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
ClipVectors = Literal["clip/image", "clip/text"]
Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]

DATA_TYPES: dict[str, tuple[str, ...]] = {
    "photo": ("photograph", "snapshot taken with a camera"),
    "sketch": ("pencil sketch", "line drawing", "charcoal drawing"),
    "cartoon": ("cartoon", "comic strip", "anime drawing"),
    "painting": ("oil painting", "watercolour painting"),
    "render": ("3D rendering", "scene of a video game"),
    "screenshot": ("screenshot of a website", "screenshot of a computer program"),
    "text_heavy": ("page of printed text", "slide full of text", "scanned document"),
    "diagram": ("diagram", "bar chart", "map"),
    "logo": ("logo of a company", "icon", "piece of clip art"),
}
TEMPLATES = ("a {}.", "this is a {}.", "an image of a {}.", "a {} found on the web.", "one {}.")


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def reads_trusted(self) -> bool:
        """Whether this score compares with the embeddings of the trusted split."""
        return False

    @property
    def runs_network(self) -> bool:
        """Whether this score runs a network of some size, on a GPU where there is one."""
        return False


class HeadSettings(_Settings):
    """A number from an embedding: a linear head or an MLP, from a safetensors file."""

    kind: Literal["head"]
    file: str = Field(description="safetensors file of the head, on any fsspec URL")
    vectors: ImageVectors = Field("clip/image", description="vectors it reads, as SCORER/VECTOR")
    embedding: str | None = Field(None, description=f"{EMBEDDING}; where the file does not say")
    units: str | None = Field(None, description="of its score, where the file does not say")
    polarity: Polarity | None = Field(None, description="where the file does not say")


class ConceptsSettings(_Settings):
    """Zero-shot data types: which of some concepts, told in prompts, an image is closest to.

    The model is the one of `filter`, which made the vectors.
    """

    kind: Literal["concepts"]
    prompts: dict[ScoreName, Annotated[tuple[Prompt, ...], Field(min_length=1)]] = Field(
        DATA_TYPES, min_length=2, description="what each concept looks like, in a few words each"
    )
    templates: Annotated[tuple[Prompt, ...], Field(min_length=1)] = Field(
        TEMPLATES, description="sentences with {} where a prompt goes; their vectors are averaged"
    )

    @property
    def runs_network(self) -> bool:
        return True

    @model_validator(mode="after")
    def _columns_differ(self) -> "ConceptsSettings":
        for template in self.templates:
            if "{}" not in template:
                raise ValueError(f"template {template!r} has no {{}} where a prompt could go")
        names = ["best", *self.prompts, *(f"{name}_similarity" for name in self.prompts)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two columns would be called {twice[0]!r}; rename that concept")
        return self


class OutlierSettings(_Settings):
    """Distance to what the trusted split looks like: Mahalanobis, in embedding space."""

    kind: Literal["outlier"]
    vectors: ClipVectors = Field("clip/image", description="vectors it reads")
    components: int | None = Field(
        None, gt=0, description="principal directions that count; null: all"
    )
    limit: int = Field(50_000, ge=10, description="trusted samples that it is fit to, at most")

    @property
    def reads_trusted(self) -> bool:
        return True


class FoolingSettings(_Settings):
    """Likeness to many unrelated texts at once, which no ordinary image has."""

    kind: Literal["fooling"]
    file: str | None = Field(
        None, description="text file of prompts, one a line; without it 1,000 of our own"
    )
    limit: int = Field(50_000, ge=10, description="trusted samples that it is compared with")

    @property
    def reads_trusted(self) -> bool:
        return True

    @property
    def runs_network(self) -> bool:
        return True


class LabelsSettings(_Settings):
    """A name for each sample, from the captions nearest to its image; no list of classes."""

    kind: Literal["labels"]
    captions: Literal["pool", "trusted"] = Field("pool", description="whose captions name things")
    limit: int = Field(50_000, gt=0, description="samples whose captions are looked at, at most")

    @property
    def reads_trusted(self) -> bool:
        return self.captions == "trusted"

    @property
    def runs_network(self) -> bool:
        return True


class WordsSettings(_Settings):
    """How often the entries of a list of words stand in the caption: blocked ones, or wanted."""

    kind: Literal["words"]
    file: str = Field(description="text file, one entry in each line, on any fsspec URL")


class ClustersSettings(_Settings):
    """Which of given clusters a vector falls into, and whether references fall into it too."""

    kind: Literal["clusters"]
    centroids: str = Field(description=".npy of the clusters' centres, [k, dim]")
    references: str = Field(description=".npy of the references' vectors, [m, dim]")
    vectors: VectorName = Field("clip/image", description="vectors it reads, as SCORER/VECTOR")


class GeneratedSettings(_Settings):
    """Whether the finest detail is that of a photograph; reads the images anew."""

    kind: Literal["generated"]


class PatchesSettings(_Settings):
    """Which patches of an image make it what its caption says; reads the images anew."""

    kind: Literal["patches"]

    @property
    def runs_network(self) -> bool:
        return True


class DetectorSettings(_Settings):
    """Whether an object detector finds the class that a row names; reads the images anew."""

    kind: Literal["detector"]
    model: str = Field(
        min_length=1, description="object-detection model of transformers: folder or hf-hub:NAME"
    )
    label: str = Field("concept", min_length=1, description="field of a row's meta: its class")

    @property
    def runs_network(self) -> bool:
        return True


class CaptionSettings(_Settings):
    """A caption that an image-to-text model writes; reads the images anew."""

    kind: Literal["caption"]
    model: str = Field(
        min_length=1, description="image-to-text model of transformers: folder or hf-hub:NAME"
    )
    prompt: str = Field(
        "",
        max_length=2000,
        description="what the model goes on from, or is told to do if it was made for talks; no "
        "part of the caption",
    )
    max_tokens: int = Field(48, ge=1, le=512, description="of a caption, at most")
    beams: int = Field(1, ge=1, le=16, description="of a beam search; 1: the likeliest next token")
    temperature: float = Field(
        0.0, ge=0, le=10, description="above 0 tokens are drawn, by a number of their own each time"
    )
    seed: int = Field(0, ge=0, description="of what is drawn")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the network; auto: bfloat16 where the machine that plans the run has a GPU "
        "with it, else float32",
    )

    @property
    def runs_network(self) -> bool:
        return True

    @model_validator(mode="after")
    def _one_search(self) -> "CaptionSettings":
        if self.beams > 1 and self.temperature:
            raise ValueError("beams search for the likeliest caption, temperature draws one")
        return self


# Of these a sample alone is asked, and no embedding.
SampleScoreSettings = (
    WordsSettings | GeneratedSettings | PatchesSettings | DetectorSettings | CaptionSettings
)
ScoreSettings = Annotated[
    HeadSettings
    | ClustersSettings
    | ConceptsSettings
    | OutlierSettings
    | FoolingSettings
    | LabelsSettings
    | SampleScoreSettings,
    Field(discriminator="kind"),
]
