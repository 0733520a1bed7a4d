"""The figures of curation/README.md, from results/*.json. Run by tables.py."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def measured() -> str:
    """All of the section `Measured`."""
    parts = (decisions(), pairs(), hashes(), scores(), embedding(), race(), fractals())
    return "\n\n".join(parts)


def decisions() -> str:
    found = load("decisions")
    seconds, sizes = found["seconds"], found["sizes"]
    rows = f"{sizes['rows'] / 1e6:.0f} million rows"
    return "\n".join(
        [
            f"Decisions (`tests/bench/decisions.py`, commit {found['commit']}), one core:",
            "",
            "| what | CPU-seconds |",
            "|---|---|",
            f"| {sizes['rules']} rules over {rows} of {sizes['columns']} columns, "
            f"{found['rules_gigabytes_beside_the_columns']} GB beside these | "
            f"{seconds['rules']:.1f} |",
            f"| what `--plan` tells of them | {seconds['plan_of_rules']:.1f} |",
            f"| a sweep of 100 thresholds over {rows} | {seconds['sweep_100']:.1f} |",
            f"| greedy choice over {sizes['pairs'] / 1e6:.0f} million pairs of "
            f"{sizes['nodes'] / 1e6:.0f} million rows | {seconds['greedy']:.1f} |",
        ]
    )


def pairs() -> str:
    found = load("embedding_pairs")
    lines = [
        "Pairs of cosine 0.97 among vectors of 512 numbers, beside the plain algorithm of SemDeDup "
        f"(`tests/bench/embedding_pairs.py`, commit {found['commit']}):",
        "",
        "| vectors | CPU-seconds | of SemDeDup's | recall | SemDeDup's | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for count, figures in found["sizes"].items():
        ours, peer = figures["ours"], figures.get("semdedup")
        theirs = (f"{figures['ratio']:.2f}", f"{peer['recall']:.3f}") if peer else ("-", "-")
        lines.append(
            f"| {int(count):,} | {ours['cpu_seconds']:.1f} | {theirs[0]} | {ours['recall']:.3f} | "
            f"{theirs[1]} | {ours['peak_gigabytes']} GB |"
        )
    return "\n".join(lines)


def hashes() -> str:
    found = load("perceptual")["photographs"]
    names = {
        "pHash within 8 bits": found["phash"]["8"],
        "pHash within 10 bits": found["phash"]["10"],
        "pHash and dHash within 10 bits": found["phash_and_dhash"]["10"],
        "pHash and dHash within 8 bits (the default)": found["phash_and_dhash"]["8"],
        "descriptor, cosine 0.95": found["near_alone"],
        "the ladder's default: either of the last two": found["ladder"],
    }
    lines = [
        "Copies re-encoded at quality 30 to 95, resized by 0.5 to 2 or cropped by up to 2 %, of "
        "photographs that share no pixel (`tests/bench/perceptual.py`):",
        "",
        "| found by | recall | precision |",
        "|---|---|---|",
    ]
    return "\n".join(
        [*lines, *(f"| {k} | {v['recall']:.3f} | {v['precision']:.3f} |" for k, v in names.items())]
    )


def scores() -> str:
    images, captions = load("image_scores"), load("captions")["captions_per_second"]
    both = [images[kind]["of_the_fastest"] for kind in ("photographs", "noise")]
    plain, whole = (
        " and ".join(f"{each[name]:.2f}" for each in both)
        for name in ("image_hash_without_sha256", "image_hash")
    )
    return (
        f"Statistics of pictures with both hashes run at {plain} of the rate of the fastest bare "
        f"decoder (photographs, noise), with the pixels' SHA-256 at {whole} "
        "(`tests/bench/image_scores.py`); statistics of captions at "
        f"{captions['statistics']:,} a second, their language at {captions['language']:,} "
        "(`tests/bench/captions.py`)."
    )


def embedding() -> str:
    found = load("embed")
    figures = found["outside_cpu_seconds_per_1000"]
    return (
        f"Embedding beside {found['peer']}, the same tars and model: {figures['ratio']:.2f} of its "
        f"CPU-seconds outside the network ({figures['ours']:.2f} against "
        f"{figures['clip-retrieval']:.2f} for 1,000 images); of the time that ViT-B-32 takes, "
        f"{found['network_share_of_wall_vit_b_32']:.2f} are spent in the network "
        "(`tests/bench/embed.py`)."
    )


def race() -> str:
    found = load("cifar_race")
    kept, pool, raw = found["kept"], found["pool"], found["raw"]["zero_shot"]["accuracy"]
    ours = found["curated"]["zero_shot"]["accuracy"]
    gain = found["curated_less_raw"]["zero_shot"]["accuracy"]
    return (
        f"CIFAR-10 with {pool['mismatched']:.0%} of captions wrong and "
        f"{pool['exact_duplicates']:.0%} copies planted: of {pool['rows']:,} rows {kept['rows']:,} "
        f"are kept, {kept['mismatched']:.1%} of them with a wrong caption, "
        f"{kept['exact_duplicates']} copies. A small CLIP trained on these, "
        f"{found['samples_seen']:,} samples seen, reaches "
        f"{ours['value']:.3f} zero-shot on the test set, on the raw pool {raw['value']:.3f}: "
        f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] over {found['seeds']} "
        "seeds (`tests/bench/cifar_race.py`)."
    )


def fractals() -> str:
    found = load("fractals")
    ours, ratio, sizes = found["ours"], found["ratio"], found["sizes"]
    away = found["density_distance_to_limit"]["16 x 16 cells"]
    return (
        f"Fractals of {sizes['pixels']} pixels and {sizes['points']:,} points on one core, beside "
        f"a plain numba renderer: {ours['grey']:,.0f} grey ones a CPU-second ({ratio['grey']:.1f} "
        f"times as many), {ours['colour']:,.0f} coloured ({ratio['colour']:.1f} times), "
        f"{ours['all_variations']:,.0f} with backgrounds and all variations. Total variation from "
        f"the density of many points, on 16 x 16 cells: {away['ours']:.4f}, the plain one "
        f"{away['peer']:.4f} (`tests/bench/fractals.py`, commit {found['commit']})."
    )
