"""The compiled loops that plan and trace orbits (numba): numbers in, numbers out.

The chaos game of one orbit is a serial chain, so ORBITS of them go in lockstep, each from a point
of its own. Every map stands on a share of ORBITS places, in an order shuffled by the image's key;
in step t orbit j takes the map at place j + shift[t], round the end. The shifts are random, and
the same for all images. So each orbit takes every map with its probability, independently from
step to step, while a step is one pass over arrays, without a random number or a branch: compilers
vectorise it, and a GPU needs no gather (`torch_render`).

Random numbers are SplitMix64 words (Steele et al., 2014): word i of a key is a hash of
key + i * GOLDEN, so they are counter-based and depend on neither order nor threads. No fast-math
and no fused multiply-add: every sum is rounded as written, on every machine.
"""

import math

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled

ORBITS = 256  # in lockstep; also the places that maps stand on, in steps of 1 / 256
COLUMNS = 6  # numbers of a map: a, b, c, d, e, f of (a x + b y + e, c x + d y + f)
MOST_MAPS = 8
LEAST_SHARE = 0.02  # of the points, for a map so flat that its determinant is near 0
LEAST_SHOWN = 0.25  # of the attractor, in points; an emptier zoom shows the whole
SETTLING = 8  # steps of a jittered system before its box is taken
TRACED = 24  # steps that its box is taken from

# The numbers of an instance, uniform in [0, 1): what each of them decides.
NUMBERS = 32
JITTER, ZOOM, FLIPS = 0, 8, 12  # four pairs (map, factor); x, y, width, height; three coins
HUE, SATURATION, VALUE = 15, 16, 17
BACK_HUE, BACK_TURN, BACK_VALUE, BACK_SATURATION, BACK_RISE = 18, 19, 20, 21, 22
DECAY, ACROSS, DOWN, BLUR, SIGMA, PATCH = 23, 24, 25, 26, 27, 28
PLACES_WORD, TRIAL_WORD, NOISE_WORD = 40, 41, 42  # words that are keys of their own

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
S27, S30, S31, S32, S11 = (np.uint64(bits) for bits in (27, 30, 31, 32, 11))
UNIT = 2.0**-53


@compiled
def word(key: np.uint64, index: int) -> np.uint64:
    """Word `index` of the random stream `key`: 64 bits."""
    z = key + np.uint64(index + 1) * GOLDEN
    z = (z ^ (z >> S30)) * MIX_1
    z = (z ^ (z >> S27)) * MIX_2
    return z ^ (z >> S31)


@compiled
def uniform(key: np.uint64, numbers: NDArray[np.float64]) -> None:
    """Fill numbers [count] with words of `key` as numbers in [0, 1)."""
    for index in range(numbers.shape[0]):
        numbers[index] = (word(key, index) >> S11) * UNIT


@compiled
def shifts(key: np.uint64, turns: NDArray[np.int64]) -> None:
    """Fill turns [steps] with how far the places turn in each step."""
    for step in range(turns.shape[0]):
        turns[step] = np.int64(word(key, step) % np.uint64(ORBITS))


@compiled
def weigh(maps: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
    """Fill weights [n] in proportion to |det|, so that points spread evenly; they add up to 1."""
    total = 0.0
    for k in range(maps.shape[0]):
        weights[k] = abs(maps[k, 0] * maps[k, 3] - maps[k, 1] * maps[k, 2])
        total += weights[k]
    least, total = LEAST_SHARE * max(total, 1e-12), 0.0
    for k in range(maps.shape[0]):
        weights[k] = max(weights[k], least)
        total += weights[k]
    for k in range(maps.shape[0]):
        weights[k] /= total


@compiled
def arrange(weights: NDArray[np.float64], key: np.uint64, places: NDArray[np.uint8]) -> None:
    """Fill places [ORBITS] with map numbers by weights [n], in shuffled order.

    Shares are rounded to 1 / ORBITS up or down at random, so that they are right on average.
    """
    offset = (word(key, 0) >> S11) * UNIT
    k, edge = 0, weights[0]
    for place in range(ORBITS):
        while k < weights.shape[0] - 1 and (place + offset) / ORBITS >= edge:
            k += 1
            edge += weights[k]
        places[place] = k
    for last in range(ORBITS - 1, 0, -1):  # Fisher and Yates
        other = np.int64(((word(key, last) >> S32) * np.uint64(last + 1)) >> S32)
        places[last], places[other] = places[other], places[last]


@compiled
def spread(
    maps: NDArray[np.float32], places: NDArray[np.uint8], points: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What orbits are traced in, [COLUMNS + 2, 2 ORBITS]: maps at places, twice over, and points.

    The maps come twice so that no window on them needs to wrap; then come x and y, and a row to
    spare. One array, since processors run some loops at half speed over arrays that happen to lie
    unluckily to each other.
    """
    room = np.empty((COLUMNS + 2, 2 * ORBITS), np.float32)
    for column in range(COLUMNS):
        for place in range(ORBITS):
            value = maps[places[place], column]
            room[column, place] = value
            room[column, ORBITS + place] = value
    room[COLUMNS, :ORBITS], room[COLUMNS, ORBITS:] = points[0], points[1]
    return room


@compiled
def widen(
    values: NDArray[np.float32], least: NDArray[np.float32], most: NDArray[np.float32]
) -> None:
    """Take values [ORBITS] into the least and the most of each orbit."""
    for j in range(ORBITS):
        value = values[j]
        low, high = least[j], most[j]
        least[j] = value if value < low else low
        most[j] = value if value > high else high


@compiled
def advance(room: NDArray[np.float32], turn: int) -> None:
    """One step of all orbits: the rows behind those of the maps are x and y, see `spread`."""
    xs, ys = room[COLUMNS, :ORBITS], room[COLUMNS, ORBITS:]
    first, last = turn, turn + ORBITS
    a, b, c = room[0, first:last], room[1, first:last], room[2, first:last]
    d, e, f = room[3, first:last], room[4, first:last], room[5, first:last]
    for j in range(ORBITS):
        x = a[j] * xs[j] + b[j] * ys[j] + e[j]
        y = c[j] * xs[j] + d[j] * ys[j] + f[j]
        xs[j], ys[j] = x, y


@compiled
def trace(
    maps: NDArray[np.float32],
    places: NDArray[np.uint8],
    turns: NDArray[np.int64],
    settling: int,
    points: NDArray[np.float32],
) -> tuple[float, float, float, float]:
    """Move points [2, ORBITS] by all steps; return the box of what comes after `settling` steps."""
    room = spread(maps, places, points)
    xs, ys = room[COLUMNS, :ORBITS], room[COLUMNS, ORBITS:]
    left, right = np.full(ORBITS, np.inf, np.float32), np.full(ORBITS, -np.inf, np.float32)
    top, bottom = left.copy(), right.copy()
    for step in range(turns.shape[0]):
        advance(room, turns[step])
        if step >= settling:
            widen(xs, left, right)
            widen(ys, top, bottom)
    points[0], points[1] = xs, ys
    return left.min(), top.min(), right.max(), bottom.max()


@compiled
def visit(
    maps: NDArray[np.float32],
    places: NDArray[np.uint8],
    turns: NDArray[np.int64],
    total: int,
    points: NDArray[np.float32],
    counts: NDArray[np.uint32],
) -> None:
    """Count where the orbits from points [2, ORBITS] fall, `total` points in all.

    maps and points are in cells of counts. counts [rows + 2, columns + 2] has a margin of one cell,
    which takes what lies outside.
    """
    room = spread(maps, places, points)
    xs, ys = room[COLUMNS, :ORBITS], room[COLUMNS, ORBITS:]
    cells, flat = room[COLUMNS + 1].view(np.int32)[:ORBITS], counts.reshape(-1)
    stride = np.int32(counts.shape[1])
    zero = np.float32(0)
    most_x, most_y = np.float32(counts.shape[1] - 0.5), np.float32(counts.shape[0] - 0.5)
    for step in range(turns.shape[0]):
        advance(room, turns[step])
        for j in range(ORBITS):
            x, y = xs[j], ys[j]
            # Written so that what is no number falls into the margin, too.
            x = x if x > zero else zero
            y = y if y > zero else zero
            x = x if x < most_x else most_x
            y = y if y < most_y else most_y
            cells[j] = np.int32(y) * stride + np.int32(x)
        for j in range(min(ORBITS, total - step * ORBITS)):
            flat[np.uint64(cells[j])] += np.uint32(1)


@compiled
def contraction(maps: NDArray[np.float64], weights: NDArray[np.float64], mean: bool) -> float:
    """The largest singular value of the maps, or their largest ones' geometric mean by weight.

    The first below 1: there is one attractor, and it is bounded. The mean below 1: there is one
    distribution that orbits follow (Barnsley & Elton, 1988), though it may reach far.
    """
    largest = total = 0.0
    for k in range(maps.shape[0]):
        a, b, c, d = maps[k, 0], maps[k, 1], maps[k, 2], maps[k, 3]
        squares = a * a + b * b + c * c + d * d
        determinant = a * d - b * c
        root = math.sqrt(max(squares * squares - 4 * determinant * determinant, 0.0))
        value = math.sqrt((squares + root) / 2)
        largest = max(largest, value)
        total += weights[k] * math.log(max(value, 1e-300))
    return math.exp(total) if mean else largest


@compiled
def see(
    maps: NDArray[np.float64],
    points: NDArray[np.float32],
    view: tuple[float, float, float, float, float, float],
    seen: NDArray[np.float32],
) -> None:
    """Write into seen [n, COLUMNS] the maps as they act in pixels, and move points [2, ORBITS].

    view: a, b, c, d, e, f of the affine map from the plane to pixels; one of a, b and one of c, d
    is 0.
    """
    a, b, c, d, e, f = view
    determinant = a * d - b * c
    for k in range(maps.shape[0]):
        # view o map o (inverse of view); the inverse's linear part is (d, -b, -c, a) / det.
        p, q = a * maps[k, 0] + b * maps[k, 2], a * maps[k, 1] + b * maps[k, 3]
        r, s = c * maps[k, 0] + d * maps[k, 2], c * maps[k, 1] + d * maps[k, 3]
        p, q = (p * d - q * c) / determinant, (q * a - p * b) / determinant
        r, s = (r * d - s * c) / determinant, (s * a - r * b) / determinant
        seen[k, 0], seen[k, 1], seen[k, 2], seen[k, 3] = p, q, r, s
        seen[k, 4] = a * maps[k, 4] + b * maps[k, 5] + e - p * e - q * f
        seen[k, 5] = c * maps[k, 4] + d * maps[k, 5] + f - r * e - s * f
    for j in range(ORBITS):
        x, y = float(points[0, j]), float(points[1, j])
        points[0, j], points[1, j] = a * x + b * y + e, c * x + d * y + f


@compiled
def framed(
    box: tuple[float, float, float, float], size: int
) -> tuple[float, float, float, float, float, float]:
    """The view that fills the cells 1 to `size` of each side with the box."""
    left, top, right, bottom = box
    across, down = size / max(right - left, 1e-12), size / max(bottom - top, 1e-12)
    return across, 0.0, 0.0, down, 1.0 - across * left, 1.0 - down * top


@compiled
def zoomed(
    box: tuple[float, float, float, float],
    numbers: NDArray[np.float64],
    points: NDArray[np.float32],
) -> tuple[float, float, float, float]:
    """Move the box by up to a fifth of its extent and scale each side by 0.6 to 1.6.

    The box itself where too few of points [2, ORBITS] would be left in it.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    x = (left + right) / 2 + (0.4 * numbers[ZOOM] - 0.2) * width
    y = (top + bottom) / 2 + (0.4 * numbers[ZOOM + 1] - 0.2) * height
    half_x = (0.6 + numbers[ZOOM + 2]) * width / 2
    half_y = (0.6 + numbers[ZOOM + 3]) * height / 2
    inside = 0
    for j in range(ORBITS):
        inside += abs(points[0, j] - x) < half_x and abs(points[1, j] - y) < half_y
    if inside < LEAST_SHOWN * ORBITS:
        return box
    return x - half_x, y - half_y, x + half_x, y + half_y


@compiled
def flipped(
    view: tuple[float, float, float, float, float, float], numbers: NDArray[np.float64], size: int
) -> tuple[float, float, float, float, float, float]:
    """The view transposed, turned over and mirrored, each by a coin."""
    a, b, c, d, e, f = view
    if numbers[FLIPS] < 0.5:
        a, b, c, d, e, f = c, d, a, b, f, e
    if numbers[FLIPS + 1] < 0.5:
        c, d, f = -c, -d, size + 2 - f
    if numbers[FLIPS + 2] < 0.5:
        a, b, e = -a, -b, size + 2 - e
    return a, b, c, d, e, f


@compiled
def jitter(
    maps: NDArray[np.float64],
    weights: NDArray[np.float64],
    numbers: NDArray[np.float64],
    limit: float,
    mean: bool,
) -> bool:
    """Scale the linear part of one map by 0.8 to 1.1, if the system then contracts by `limit`."""
    for attempt in range(4):
        k = int(numbers[JITTER + 2 * attempt] * maps.shape[0])
        before = maps[k].copy()
        maps[k, :4] *= 0.8 + 0.3 * numbers[JITTER + 2 * attempt + 1]
        weigh(maps, weights)
        if contraction(maps, weights, mean) <= limit:
            return True
        maps[k] = before
    weigh(maps, weights)
    return False


@compiled
def plan(
    system: NDArray[np.float64],
    box: tuple[float, float, float, float],
    points: NDArray[np.float32],
    turns: NDArray[np.int64],
    size: int,
    limit: float,
    mean: bool,
    zoom: bool,
    flips: bool,
    numbers: NDArray[np.float64],
    key: np.uint64,
    maps: NDArray[np.float32],
    places: NDArray[np.uint8],
) -> None:
    """Fill what one instance of `system` [n, COLUMNS] draws its orbits with.

    numbers [NUMBERS]; maps [n, COLUMNS] in pixels; places [ORBITS]; points [2, ORBITS] hold points
    of the attractor and are moved to pixels. turns: at least SETTLING + TRACED. limit: how much
    jitter may leave of `contraction` (the mean one or not), 0 for no jitter.
    """
    uniform(key, numbers)
    varied, weights = system.copy(), np.empty(system.shape[0])
    weigh(varied, weights)
    if limit > 0 and jitter(varied, weights, numbers, limit, mean):
        weigh(varied, weights)
        arrange(weights, word(key, TRIAL_WORD), places)
        turned = turns[: SETTLING + TRACED]
        box = trace(varied.astype(np.float32), places, turned, SETTLING, points)
    view = framed(zoomed(box, numbers, points) if zoom else box, size)
    see(varied, points, flipped(view, numbers, size) if flips else view, maps)
    arrange(weights, word(key, PLACES_WORD), places)


@compiled
def plan_all(
    systems: NDArray[np.float64],
    sizes: NDArray[np.int64],
    boxes: NDArray[np.float64],
    starts: NDArray[np.float32],
    which: NDArray[np.int64],
    keys: NDArray[np.uint64],
    turns: NDArray[np.int64],
    size: int,
    limit: float,
    mean: bool,
    zoom: bool,
    flips: bool,
    numbers: NDArray[np.float64],
    maps: NDArray[np.float32],
    places: NDArray[np.uint8],
    points: NDArray[np.float32],
) -> None:
    """`plan` for many instances, each of system which[i] and with the key keys[i].

    systems [s, MOST_MAPS, COLUMNS] of `sizes` [s] maps each, with boxes [s, 4] and points starts
    [s, 2, ORBITS]. To be filled, as plan does, for i images: numbers [i, NUMBERS], maps
    [i, MOST_MAPS, COLUMNS], places [i, ORBITS], points [i, 2, ORBITS].
    """
    for index in range(which.shape[0]):
        system = which[index]
        count = sizes[system]
        left, top, right, bottom = boxes[system]
        points[index] = starts[system]
        plan(
            systems[system, :count], (left, top, right, bottom), points[index], turns, size, limit,
            mean, zoom, flips, numbers[index], keys[index], maps[index, :count], places[index],
        )  # fmt: skip


@compiled
def key_all(root: np.uint64, pairs: NDArray[np.int64], keys: NDArray[np.uint64]) -> None:
    """Fill keys [i] with those of pairs [i, 2]: two numbers each, one after the other."""
    for index in range(pairs.shape[0]):
        keys[index] = word(word(root, pairs[index, 0]), pairs[index, 1])
