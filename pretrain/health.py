"""What can go wrong in a run and leaves a trace in its figures: each alarm says what to do.

An alarm never stops a run. Alarms are lines of `alarms.jsonl` and a word on the terminal; that file
is no part of the run's content, since some of them tell of clocks.
"""

import json
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from indexes import bfloat16
from infra import filesystem
from infra.filesystem import join
from pretrain.settings import TrainSettings

ALARMS = "alarms.jsonl"
ALIKE, UNIFORM = 0.1, 0.98  # shares of the largest entropy: usage below, entropy above is collapse
NEAR = 0.5  # share of pairs that are near duplicates, above which features have collapsed
SPREAD = 0.1  # standard deviation of unit features, as a share of that of evenly spread ones
RANK_LEAST, RANK_SHARE = 1.5, 0.25  # effective rank: in itself, and of the highest that was seen
RANK_MOST = 256  # samples that it is taken of: a GPU stands still meanwhile, 3 ms instead of 90
SPIKE, SPIKE_SHARE = 8.0, 0.05  # median absolute deviations above the median, and a share of it
SPIKE_WINDOW, SPIKE_LEAST = 50, 10  # losses compared with
WAIT = 0.1  # share of the time that steps may wait for data
WAIT_WINDOW, WAIT_LEAST = 50, 5  # observations it is taken over
SAME = 0.05  # share of a batch that another sample of it equals in caption or features
SAME_FEATURES = 0.9999  # cosine of centred features from which on they are near equal
LASTING = 3  # observations in a row before a sign is believed that chance can give
LASTS = ("collapse", "rank", "duplicates")
QUIET = 100  # observations before an alarm that goes on is raised again
PATIENCE = 60.0  # seconds without a batch before the reader is called stalled


@dataclass(frozen=True)
class Alarm:
    """name: of its kind; step: of the run; seen: the figures; todo: the way out."""

    name: str
    step: int
    seen: str
    todo: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.name}: {self.seen}; {self.todo}"


Sign = tuple[str, str]  # what was seen, what to do


def collapse(figures: Mapping[str, float]) -> Sign | None:
    """By what objectives tell of themselves, as `pretrain.self_distillation.spread` does."""
    usage, entropy = figures.get("usage"), figures.get("entropy")
    near, spread = figures.get("near_duplicates"), figures.get("spread")
    if usage is not None and usage < ALIKE:
        return (
            f"all images have one target: usage {usage:.2f}",
            "raise the teacher's temperature, lower center_momentum, or lower lr",
        )
    if entropy is not None and entropy > UNIFORM:
        return (
            f"all targets are uniform: entropy {entropy:.2f}",
            "lower the teacher's temperature, or lengthen its warm-up",
        )
    if near is not None and near > NEAR:
        return (
            f"{near:.0%} of a batch's pairs have near equal features",
            "lower lr, raise the weight of koleo, or look for duplicates in the data",
        )
    if spread is not None and spread < SPREAD:
        return f"features hardly differ: spread {spread:.2f}", "lower lr, or raise batch"
    return None


def effective_rank(features: Tensor) -> float:
    """RankMe of features [samples, width]: exp of the entropy of their singular values' shares.

    Garrido et al. 2023 (arXiv:2210.02885), eq. 1: 1 where all samples are multiples of one
    vector, at most min(samples, width). Not a number where the features are none. The values are
    roots of the eigenvalues of the smaller product of the features with themselves: a GPU makes
    that, and the processor, which is quicker at the rest, half as long for it.
    """
    rows = features.detach().double()
    square = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    values = torch.linalg.eigvalsh(square.cpu()).clamp(min=0).sqrt()
    shares = values / values.sum() + 1e-7
    return float(torch.special.entr(shares).sum().exp())


def low_rank(rank: float, highest: float) -> Sign | None:
    """`highest`: the highest effective rank of this run so far."""
    if rank < RANK_LEAST or rank < RANK_SHARE * highest:
        return (
            f"effective rank of the features is {rank:.1f}, it has been {highest:.1f}",
            "lower lr, lengthen warmup, or go back to an earlier checkpoint",
        )
    return None


def spike(loss: float, before: Sequence[float]) -> Sign | None:
    """Whether a loss stands out from those before it; a falling or a noisy one does not."""
    if len(before) < SPIKE_LEAST:
        return None
    middle = median(before)
    scatter = 1.4826 * median(abs(each - middle) for each in before)
    if loss - middle <= max(SPIKE * scatter, SPIKE_SHARE * abs(middle)):
        return None
    return (
        f"the loss is {loss:.4g}, the median of the last {len(before)} is {middle:.4g}",
        "one is no harm; if they come again lower lr, lengthen warmup, or set clip_grad",
    )


def starvation(waited: float, stepped: float) -> Sign | None:
    """Of seconds in which steps waited for data, and in which they worked."""
    share = waited / max(waited + stepped, 1e-9)
    if share <= WAIT:
        return None
    return (
        f"steps wait for data {share:.0%} of the time",
        "raise threads, lower canvas, or store the images smaller; `python -m pretrain preflight` "
        "tells the rates",
    )


def unsuited(settings: TrainSettings, device: str) -> Sign | None:
    """Whether a run asks for a precision that this machine's `device`, a type, is not made for."""
    if settings.precision != "bfloat16" or bfloat16.native(device):
        return None
    much = "several times as long as" if settings.compile else "longer than"  # indexes/bfloat16.py
    return (
        f"this processor has no instructions for bfloat16: a step takes {much} in float32",
        "set precision: float32, or train where there are such",
    )


def stalled(seconds: float, alive: bool, patience: float = PATIENCE) -> Sign | None:
    """Of the thread that makes batches: seconds since it was asked, and whether it is there."""
    if not alive:
        return (
            "the thread that makes batches has died",
            "start the run again: it goes on from its last checkpoint",
        )
    if seconds < patience:
        return None
    return (
        f"no batch for {seconds:.0f} s",
        "look whether the store answers and whether the machine swaps; the run waits on",
    )


def same_captions(captions: Sequence[str]) -> float:
    """Share of the samples whose caption is not empty and another sample's, too."""
    times = Counter(caption for caption in captions if caption)
    return sum(count for count in times.values() if count > 1) / max(len(captions), 1)


def same_features(features: Tensor) -> float:
    """Share of the samples whose centred features have a cosine over SAME_FEATURES with another's.

    Centred, because features of a young network share most of their length.
    """
    if len(features) < 3:
        return 0.0
    centred = features.detach().double()
    centred = functional.normalize(centred - centred.mean(0), dim=-1)
    cosines = (centred @ centred.T).fill_diagonal_(-1)
    return float((cosines.amax(1) > SAME_FEATURES).double().mean())


def duplicates(captions: float | None, features: float | None) -> Sign | None:
    """Of the shares that `same_captions` and `same_features` give; None: not looked at."""
    if captions is not None and captions > SAME:
        return (
            f"{captions:.0%} of a batch have the caption of another sample in it",
            "they are taught as negatives of each other: deduplicate captions, or set "
            "options.same_caption to positive (clip)",
        )
    if features is not None and features > SAME:
        return (
            f"{features:.0%} of a batch have near equal features with another sample in it",
            "look for duplicate images: a curation recipe's dedup steps drop them",
        )
    return None


class Watch:
    """Looks at a run as it goes. `observe` gives the alarms that are new.

    warmup: steps before collapse is looked for.
    """

    def __init__(self, warmup: int = 0) -> None:
        self._warmup = warmup
        self._losses: deque[float] = deque(maxlen=SPIKE_WINDOW)
        self._times: deque[tuple[float, float]] = deque(maxlen=WAIT_WINDOW)
        self._rank = 0.0
        self._row: Counter[str] = Counter()  # observations in a row with this sign
        self.alarms: list[Alarm] = []
        self.figures: dict[str, float] = {}

    def observe(
        self,
        step: int,
        loss: float,
        figures: Mapping[str, float],
        seconds_waited: float,
        seconds_stepped: float,
        features: Tensor | None = None,
        same_captions: float | None = None,
    ) -> list[Alarm]:
        """After a step whose loss is known. The seconds are of all steps since the last call.

        features: [samples, width] of this step, one for each sample; same_captions: as
        of the function, where the objective learns from captions.
        `self.figures` then has what was found in them: effective_rank, same_features,
        same_captions.
        """
        self._times.append((seconds_waited, seconds_stepped))
        self.figures = self._measure(features, same_captions)
        signs = {
            "collapse": collapse(figures) if step >= self._warmup else None,
            "rank": self._low_rank(step),
            "spike": spike(loss, self._losses),
            "starvation": self._starvation(),
            "duplicates": duplicates(
                self.figures.get("same_captions"), self.figures.get("same_features")
            ),
        }
        self._losses.append(loss)
        return self._raise(step, signs)

    def begin(self, step: int, settings: TrainSettings, device: str) -> list[Alarm]:
        """What is known before the run goes on after `step`, and has not been said."""
        sign = unsuited(settings, device)
        if sign is None or any(alarm.name == "precision" for alarm in self.alarms):
            return []
        return self._raise(step, {"precision": sign})

    def missing(self, step: int, seconds: float, alive: bool) -> list[Alarm]:
        """While a step waits for its batch: asked every PATIENCE seconds."""
        return self._raise(step, {"stalled": stalled(seconds, alive)})

    def _measure(self, features: Tensor | None, captions: float | None) -> dict[str, float]:
        found: dict[str, float] = {}
        if features is not None and len(features) > 1 and bool(torch.isfinite(features).all()):
            found["effective_rank"] = effective_rank(features[:RANK_MOST])
            found["same_features"] = same_features(features)
        if captions is not None:
            found["same_captions"] = captions
        return found

    def _low_rank(self, step: int) -> Sign | None:
        rank = self.figures.get("effective_rank")
        if rank is None or step < self._warmup:
            return None
        self._rank = max(self._rank, rank)
        return low_rank(rank, self._rank)

    def _starvation(self) -> Sign | None:
        if len(self._times) < WAIT_LEAST:
            return None
        waited, stepped = zip(*self._times, strict=True)
        return starvation(sum(waited), sum(stepped))

    def _raise(self, step: int, signs: Mapping[str, Sign | None]) -> list[Alarm]:
        """The signs that are new, that have lasted where they must, or go on since QUIET."""
        new: list[Alarm] = []
        for name, sign in signs.items():
            self._row[name] = self._row[name] + 1 if sign else 0
            first = LASTING if name in LASTS else 1
            if sign and self._row[name] % QUIET == first:
                new.append(Alarm(name, step, *sign))
        self.alarms += new
        return new

    def load(self, url: str, step: int) -> None:
        """Take up the alarms that a run left which now goes on after `step`."""
        if filesystem.exists(join(url, ALARMS)):
            lines = filesystem.read_bytes(join(url, ALARMS)).decode().splitlines()
            found = [Alarm(**json.loads(line)) for line in lines]
            self.alarms = [alarm for alarm in found if alarm.step <= step]

    def save(self, url: str) -> None:
        """Write them into the run's folder, where there are any."""
        if self.alarms:
            lines = "".join(f"{json.dumps(asdict(alarm))}\n" for alarm in self.alarms)
            filesystem.write_bytes(url, ALARMS, lines.encode())
