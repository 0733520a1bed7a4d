"""Pictures per reason: some that were dropped, and those on either side of the threshold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from curation.rules_settings import EXACT, NEAR, PERCEPTUAL, PIXELS, RuleSettings
from flows.report.funnel import Funnel
from flows.report.samples import Samples, Tile, shuffled
from flows.report.scores import Scores

STRIP = 9  # pictures of one strip: one line on a desk's screen
PAIRS = 4
NEAR_KEY = "curate.dedup.near.0.threshold"
CHANGES = {NEAR: NEAR_KEY, PERCEPTUAL: "curate.dedup.radius"}


@dataclass(frozen=True)
class Strip:
    """A row of pictures; `pairs` hold the one that stayed first."""

    title: str
    tiles: Sequence[Tile]
    pairs: Sequence[tuple[Tile, Tile]] = ()


@dataclass(frozen=True)
class Gallery:
    """The pictures of one reason."""

    reason: str
    count: int
    share: float
    meaning: str
    change: str  # the key of --set that moves its threshold
    strips: Sequence[Strip]


def violation(values: np.ndarray, rule: RuleSettings) -> np.ndarray:
    """How far beyond its bounds each score lies; negative inside; NaN where there is none."""
    beyond = np.full(len(values), -np.inf)
    if rule.min is not None:
        beyond = np.maximum(beyond, rule.min - values)
    if rule.max is not None:
        beyond = np.maximum(beyond, values - rule.max)
    return beyond


def change_key(rule: RuleSettings) -> str:
    """The key of --set that moves a rule's threshold."""
    if rule.top is not None:
        return f"curate.rules.{rule.reason}.top"
    bounds = [name for name in ("min", "max") if getattr(rule, name) is not None]
    return " ".join(f"curate.rules.{rule.reason}.{name}" for name in bounds)


def kept_strip(samples: Samples) -> Strip:
    """A sample of what stayed."""
    chosen = shuffled(samples.uid, np.flatnonzero(samples.selected), 3 * STRIP)
    return Strip("At random", [samples.tile(i) for i in chosen])


def galleries(samples: Samples, funnel: Funnel, scores: Scores) -> list[Gallery]:
    """One gallery for every reason that took something or nearly did, in the funnel's order."""
    rules = {rule.reason: rule for rule in samples.rules}
    found = []
    for loss in funnel.losses:
        rule = rules.get(loss.reason)
        change = change_key(rule) if rule else CHANGES.get(loss.reason, "")
        if loss.stage == "dedup":
            strips = [_pair_strip(samples, loss.reason)]
        elif rule is not None and loss.reason in scores.leak_reasons and samples.context.held_out:
            strips = _leak_strips(samples, scores, loss.reason)
        elif rule is not None and loss.reason in scores.values:
            strips = _score_strips(samples, rule, scores.values[loss.reason])
        else:
            strips = [_random_strip(samples, loss.reason)]
        strips = [strip for strip in strips if strip.tiles or strip.pairs]
        if strips:
            found.append(Gallery(loss.reason, loss.count, loss.share, loss.meaning, change, strips))
    return found


def _random_strip(samples: Samples, reason: str) -> Strip:
    chosen = shuffled(samples.uid, samples.dropped_for(reason), STRIP)
    return Strip("Dropped, at random", [samples.tile(i) for i in chosen])


def _score_strips(samples: Samples, rule: RuleSettings, values: np.ndarray) -> list[Strip]:
    beyond = violation(values, rule)
    dropped = samples.dropped_for(rule.reason)
    kept = np.flatnonzero(samples.kept & np.isfinite(beyond))
    near_dropped = dropped[np.argsort(beyond[dropped], kind="stable")]  # NaN comes last
    near_kept = kept[np.argsort(-beyond[kept], kind="stable")]

    def strip(title: str, positions: Sequence[int] | np.ndarray) -> Strip:
        shown = _scores(values[np.asarray(positions, dtype=int)])
        pairs = zip(positions, shown, strict=True)
        return Strip(title, [samples.tile(int(i), text) for i, text in pairs])

    strips = [strip("Just kept", near_kept[:STRIP])]
    if len(dropped) <= STRIP:
        return [strip("All that were dropped, the closest first", near_dropped), *strips]
    return [
        strip("Dropped, at random", shuffled(samples.uid, dropped, STRIP)),
        strip("Just dropped", near_dropped[np.isfinite(beyond[near_dropped])][:STRIP]),
        *strips,
    ]


def _scores(values: np.ndarray) -> list[str]:
    """Scores that stand beside each other, all with the decimals the largest needs."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if len(finite) else 1.0
    whole = bool(np.all(finite == np.round(finite)))
    decimals = 0 if whole else max(0, 2 - int(np.floor(np.log10(max(largest, 1e-6)))))
    return [
        f"{value:,.{decimals}f}".replace("-", "−") if np.isfinite(value) else "no score"
        for value in values
    ]


def _leak_strips(samples: Samples, scores: Scores, reason: str) -> list[Strip]:
    """Every picture beside the held-out one that it is closest to."""
    similarity = scores.leak_similarity
    dropped = samples.dropped_for(reason)
    dropped = dropped[np.argsort(similarity[dropped], kind="stable")]
    kept = np.flatnonzero(samples.kept & np.isfinite(similarity))
    kept = kept[np.argsort(-similarity[kept], kind="stable")][:PAIRS]
    random = shuffled(samples.uid, dropped, PAIRS)

    def strip(title: str, positions: Sequence[int] | np.ndarray, note: str) -> Strip:
        chosen = [int(i) for i in positions]
        twins = scores.held_out(chosen)
        pairs = [
            (replace(twins[i], note="held out"), samples.tile(i, text, note))
            for i, text in zip(chosen, _scores(similarity[chosen]), strict=True)
            if i in twins
        ]
        return Strip(title, (), pairs)

    return [
        strip("Dropped, at random", random, "dropped"),
        strip("Just dropped", dropped[:PAIRS], "dropped"),
        strip("Just kept", kept, "kept"),
    ]


def _pair_strip(samples: Samples, reason: str) -> Strip:
    """Pairs of any similarity; those beside the thresholds are for `rungs` to show."""
    dropped = np.array(
        [i for i in samples.dropped_for(reason) if samples.twin[i] in samples.positions], dtype=int
    )
    random = shuffled(samples.uid, dropped, PAIRS)
    return Strip("Dropped, at random", (), [_pair(samples, i) for i in random])


def _pair(samples: Samples, position: int) -> tuple[Tile, Tile]:
    """The kept row and the dropped one that is too close to it: the certificate."""
    twin = samples.positions[samples.twin[position]]
    same = samples.reason[position] in (EXACT, PIXELS)
    value = "" if same else f"{samples.similarity[position]:.3f}"
    return samples.tile(twin, "", "kept"), samples.tile(position, value, "dropped")
