"""Ask an index: by text, picture, uid or vector, under SQL conditions."""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexes.building import figures_of
from indexes.embeddings import Embedding, store_of, vectors_of
from indexes.files import IDS, array_of, open_faiss
from indexes.hits import Asked, Hits, neighbour_table
from indexes.lookup import Lookup
from indexes.metadata import Metadata
from indexes.models import check_row, model_of
from indexes.questions import (
    Picture,
    Query,
    Question,
    Vector,
    is_batch,
    load_encoder,
    question_of,
    stack,
    user_vector,
)
from indexes.removed import removals, remove, removed_ids
from indexes.subset import make_subset
from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.dataset import Dataset
from infra.digests import generator
from infra.errors import SluiceError
from infra.filesystem import join

if TYPE_CHECKING:
    from indexes.encoder import ClipEncoder
    from indexes.map2d import Map2D

FIRST_RANGE = 256  # rows that a range search asks for first

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Index:
    """A searchable index of one dataset version. `len` is the number of vectors.

    >>> idx = indexes.open("store/curated")
    >>> hits = idx.search("a red bicycle", k=50, where="width >= 256", min_similarity=0.2)
    """

    dataset: Dataset
    artifact: Artifact
    model: str | None = None
    pretrained: str | None = None
    device: str = "cpu"
    removed: Ids = field(init=False, repr=False, compare=False)  # from the version, ascending
    _lookup: Lookup = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.dataset.artifact.digest not in self.artifact.manifest["spec"]["parents"]:
            raise SluiceError(
                f"{self.artifact.url} is not an index of {self.name}",
                "remove that folder and run `prefect run index` again",
            )
        ids = array_of(self.artifact.path(IDS), np.int64)
        count = int(self.figures["vectors"])
        if len(ids) != count:
            raise SluiceError(
                f"{self.artifact.url} holds {len(ids)} ids, its manifest says {count}",
                "remove that folder and run `prefect run index` again",
            )
        index = open_faiss(self.artifact)
        if self.device not in ("cpu", "cuda"):
            raise SluiceError(f"no device {self.device!r}", "say cpu, or cuda for a GPU")
        lookup = Lookup(index, ids, self._embedding, self.figures, device=self.device)
        object.__setattr__(self, "_lookup", lookup)
        self._leave_out()

    def _leave_out(self) -> None:
        """Take out what has been removed from the version."""
        removed = removed_ids(removals(self.dataset.url))
        object.__setattr__(self, "removed", removed)
        object.__setattr__(self, "_lookup", self._lookup.without(removed))
        self._lookup.load()
        self.__dict__.pop("facts", None)

    def __len__(self) -> int:
        return self._lookup.count

    def remove(self, uids: Sequence[str], reason: str = "") -> int:
        """Take rows out of the version for good: no index of it shows them from now on.

        Other processes see it when they open an index; the service, within its `--follow`. An index
        built later does not hold the rows at all. Returns how many rows there were.
        """
        rows = self.facts.every(uids)
        missing = sorted({*uids} - {*rows.column("uid").to_pylist()})
        if missing:
            raise SluiceError(f"there is no uid {missing[0]!r} in {self.name}", "leave it out")
        remove(self.dataset.url, rows.append_column("reason", pa.repeat(reason, len(rows))))
        self._leave_out()
        return len(rows)

    @cached_property
    def figures(self) -> dict[str, Any]:
        """Kind and why, lists, probes, dimension, recall against brute force, bytes a vector."""
        return figures_of(self.artifact)

    @property
    def name(self) -> str:
        """Dataset and version: `curated@0123456789abcdef`."""
        return "@".join(self.dataset.url.rstrip("/").rsplit("/", 2)[1:])

    @property
    def dimension(self) -> int:
        return int(self.figures["dimension"])

    @property
    def columns(self) -> list[str]:
        """What `where` can ask about."""
        return self.facts.columns

    @cached_property
    def facts(self) -> Metadata:
        """The facts about each row, mapped: rows by id or uid, counts of values, histograms."""
        codes_url = self.dataset.artifact.path("codes", self.figures["codes"])
        if not filesystem.exists(join(codes_url, artifacts.MANIFEST)):  # long where shards are many
            raise SluiceError(
                f"the codes {self.figures['codes']} of {self.name} are gone, and its metadata too",
                "run `prefect run index` again",
            )
        ids, removed = self._lookup.ids, self._lookup.removed
        return Metadata.open(self.artifact.url, codes_url, ids, removed)

    @property
    def metadata(self) -> pa.Table:
        """One row per vector, by ascending id: all of `facts` as one table.

        It is mapped, but what one makes of it (`to_pandas`, `take`) may be as large as all files:
        in a large index ask `facts`.
        """
        return self.facts.table()

    @cached_property
    def _embedding(self) -> Embedding:
        return vectors_of(self.dataset, self.figures["embedding"])

    @cached_property
    def encoder(self) -> "ClipEncoder":
        """The model that made this index's vectors; loaded at the first text or picture."""
        store = store_of(self.dataset)
        scores = self._embedding.scores
        made = model_of(scores, store, self.model, self.pretrained, "indexes.open")
        encoder = load_encoder(made.place, made.pretrained)
        row = self.facts.take(self.facts.at(np.zeros(1, np.int64))).to_pylist()[0]
        check_row(made.name, encoder, self._embedding, self.dataset.url, row, self.name)
        return encoder

    @overload
    def search(
        self,
        query: list[Query],
        k: int = 10,
        *,
        where: str | None = None,
        min_similarity: float | None = None,
    ) -> list[Hits]: ...

    @overload
    def search(
        self,
        query: Query | None = None,
        k: int = 10,
        *,
        text: str | None = None,
        image: Picture | None = None,
        weight: float = 0.5,
        uid: str | None = None,
        where: str | None = None,
        min_similarity: float | None = None,
    ) -> Hits: ...

    def search(
        self,
        query: Query | list[Query] | None = None,
        k: int = 10,
        *,
        text: str | None = None,
        image: Picture | None = None,
        weight: float = 0.5,
        uid: str | None = None,
        where: str | None = None,
        min_similarity: float | None = None,
    ) -> Hits | list[Hits]:
        """The k rows most similar to a query, best first; for a list of queries, a list of hits.

        query: a text; a picture as a Path, PIL image or uint8 RGB array [height, width, 3]; or a
            vector of `dimension` numbers, for which no model is loaded. Or a list of these.
        text: a text, also together with a picture: text="in winter", image="cat.jpg".
        image: a picture, also by a path written as a string.
        weight: of the text where there are both, from 0 to 1.
        uid: a row of this index, which is left out of its own hits; for many see `neighbours`.
        where: a SQL condition over `columns`, such as "width >= 64 and concept = 'cat'". Where
            few rows meet it, the search is exact.
        min_similarity: leave out what is less similar (inner product of unit vectors).
        """
        if is_batch(query):
            questions = [question_of(self, each, None, None, weight, None) for each in query]  # type: ignore[union-attr]
            return self._ask(questions, k, where, min_similarity)
        question = question_of(self, query, text, image, weight, uid)
        return self._ask([question], k, where, min_similarity)[0]

    def range_search(
        self,
        query: Query | None = None,
        *,
        min_similarity: float,
        where: str | None = None,
        text: str | None = None,
        image: Picture | None = None,
        weight: float = 0.5,
        uid: str | None = None,
    ) -> Hits:
        """All rows at least so similar to a query, best first. Looks everywhere in the index."""
        question = question_of(self, query, text, image, weight, uid)
        ids = self._matching(where)
        k, count = FIRST_RANGE, len(self) if ids is None else len(ids)
        while True:
            ((similarity, found),) = self._lookup.nearest(question.vector[None], k, ids, True)
            if k >= count or similarity[-1] < np.float32(min_similarity):
                break
            k *= 4
        keep = similarity >= np.float32(min_similarity)
        keep &= found != (-1 if question.own is None else question.own)
        words = f"{question.words}, at least {min_similarity:g} similar"
        asked = Asked(words, where, self._lookup.how(ids, True))
        return self._hits(asked, similarity[keep], found[keep])

    def nearest(self, vectors: Vector, k: int = 10) -> tuple[Vector, Ids]:
        """Similarities and index ids [n, k] of the rows nearest to vectors [n, dimension].

        For many vectors at once: no table is made of what is known of the rows. Id -1 and -inf
        where there are fewer than k rows.
        """
        if np.ndim(vectors) != 2:
            raise SluiceError(f"vectors of shape {np.shape(vectors)}", "give [n, dimension]")
        vectors = np.stack([user_vector(row, self.dimension, self.name) for row in vectors])
        similarity = np.full((len(vectors), k), -np.inf, np.float32)
        ids = np.full((len(vectors), k), -1, np.int64)
        for row, (values, found) in enumerate(self._lookup.nearest(vectors, k, None)):
            similarity[row, : len(found)], ids[row, : len(found)] = values, found
        return similarity, ids

    def neighbours(self, uids: Sequence[str], k: int = 10, where: str | None = None) -> pa.Table:
        """The k nearest rows of each of these rows: uid, rank, neighbour (a uid), similarity."""
        own = self.ids_of(uids)
        pairs = zip(self.stored(own), own.tolist(), strict=True)
        questions = [Question(vector, "", key) for vector, key in pairs]
        found = self._found(questions, k, self._matching(where), None)
        ids = np.concatenate([np.empty(0, np.int64), *(rows for _, rows in found)])
        return neighbour_table(uids, found, self.facts.take(ids, ["uid"]).column("uid"))

    def sample(self, n: int, where: str | None = None, seed: int = 0) -> Hits:
        """n rows at random, or all there are; the same ones for the same seed."""
        ids = self._matching(where)
        count = len(self) if ids is None else len(ids)
        places = generator(seed, "indexes.sample").choice(count, min(n, count), replace=False)
        found = self.facts.at(places) if ids is None else ids[places]
        how = f"{len(found)} of {count} rows at random"
        return self._hits(Asked("a sample", where, how), None, found)

    def map2d(
        self, n: int = 3000, *, where: str | None = None, dropped: bool = True, seed: int = 0
    ) -> "Map2D":
        """A two-dimensional map of n vectors at random, kept in the store; a picture in a notebook.

        Rows dropped on the way to this version are shown in the colours of their reasons, but
        not with dropped=False, nor with a condition, which only rows of this index can meet.
        3,000 points take some seconds, 10,000 half a minute.
        """
        from indexes.map2d import draw_ids, map_of

        if where is not None or not dropped:
            return self.sample(n, where, seed).map2d(seed)
        ids = np.setdiff1d(draw_ids(self.dataset, n, seed), self.removed)
        return map_of(self, ids, n, seed, self.name)

    def subset(
        self,
        name: str,
        query: Query | None = None,
        *,
        where: str | None = None,
        min_similarity: float | None = None,
    ) -> Dataset:
        """A dataset version NAME of all rows that meet a condition, a similarity, or both.

        >>> idx.subset("large-bicycles", "a bicycle", min_similarity=0.25, where="width >= 512")
        """
        if (query is None) != (min_similarity is None):
            raise SluiceError("a query and min_similarity go together", "give both or none")
        if query is None or min_similarity is None:
            ids = self.facts.ids if where is None else self.facts.matching(where)
            asked = f"{len(ids)} rows: {Asked('all', where)}"
            return make_subset(self.dataset, ids, name, asked, self.figures["embedding"])
        hits = self.range_search(query, min_similarity=min_similarity, where=where)
        return hits.save_as(name)

    def vector(self, uid: str) -> Vector:
        """The vector of one row, float32 [dimension]."""
        return self.stored(self.ids_of([uid]))[0]

    def stored(self, ids: Ids) -> Vector:
        """The vectors of rows by index id, as they were written: float32 [n, dimension]."""
        return self._embedding.take(ids).astype(np.float32)

    def ids_of(self, uids: Sequence[str]) -> Ids:
        """The index ids of rows by uid. SluiceError for one that this index does not hold."""
        found = self.facts.find_all(uids)
        if (found < 0).any():
            missing = uids[int(np.flatnonzero(found < 0)[0])]
            raise SluiceError(
                f"there is no uid {missing!r} in {self.name}",
                "`prefect run explain` tells what became of a sample",
            )
        return found

    def _ask(
        self,
        questions: Sequence[Question],
        k: int,
        where: str | None,
        min_similarity: float | None,
    ) -> list[Hits]:
        ids = self._matching(where)
        found = self._found(questions, k, ids, min_similarity)
        how = self._lookup.how(ids)
        every = np.concatenate([np.empty(0, np.int64), *(rows for _, rows in found)])
        facts = self.facts.take(every)  # of all at once
        hits: list[Hits] = []
        start = 0
        for question, (similarity, rows) in zip(questions, found, strict=True):
            asked = Asked(question.words, where, how)
            hits.append(self._told(asked, similarity, facts.slice(start, len(rows))))
            start += len(rows)
        return hits

    def _found(
        self,
        questions: Sequence[Question],
        k: int,
        ids: Ids | None,
        min_similarity: float | None,
    ) -> list[tuple[Vector, Ids]]:
        """For each question similarities and ids, best first; not the row that it is about."""
        if k < 1:
            raise SluiceError(f"k={k} asks for no hits", "give a k of 1 or more")
        if not questions:
            return []
        spare = any(question.own is not None for question in questions)
        found: list[tuple[Vector, Ids]] = []
        nearest = self._lookup.nearest(stack(questions), k + spare, ids)
        for question, (similarity, rows) in zip(questions, nearest, strict=True):
            keep = rows != (-1 if question.own is None else question.own)
            if min_similarity is not None:
                keep &= similarity >= np.float32(min_similarity)
            found.append((similarity[keep][:k], rows[keep][:k]))
        return found

    def _matching(self, where: str | None) -> Ids | None:
        return None if where is None else self.facts.matching(where)

    def _hits(self, asked: Asked, similarity: Vector | None, found: Ids) -> Hits:
        return self._told(asked, similarity, self.facts.take(found))

    def _told(self, asked: Asked, similarity: Vector | None, rows: pa.Table) -> Hits:
        ranks = pa.array(np.arange(1, len(rows) + 1), pa.int32())
        values = pa.nulls(len(rows), pa.float32()) if similarity is None else pa.array(similarity)
        columns = {"rank": ranks, "similarity": values.cast(pa.float32())}
        columns.update(zip(rows.column_names, rows.columns, strict=True))
        return Hits(self, asked, pa.table(columns))

    def __repr__(self) -> str:
        figures = self.figures
        recall = ", ".join(f"{name} {value:.3f}" for name, value in figures["recall@10"].items())
        return (
            f"Index of {self.name}: {len(self)} vectors of {self.dimension} dimensions "
            f"({figures['embedding']}), {figures['kind']}, recall@10 {recall or 'not measured'}"
            f"; {figures['why']}"
        )
