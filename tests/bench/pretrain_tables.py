"""Tables of pretrain/README.md."""

from typing import Any

SIGNS = {"yes": "+", "no": "·", "size": "s", "fails": "!"}


def backbones(found: dict[str, Any]) -> str:
    """found: pretrain/capabilities.json."""
    families = found["families"]
    objectives = list(next(iter(families.values()))["answers"])
    lines = [
        f"timm {found['timm']}; one model of each family.",
        "",
        f"| family | model | {' | '.join(objectives)} |",
        f"|---|---|{'---|' * len(objectives)}",
    ]
    for family, told in families.items():
        signs = (SIGNS[told["answers"][name][0]] for name in objectives)
        model = f"`{told['model']}`, {told['image_size']} px"
        lines.append(f"| {family} | {model} | {' | '.join(signs)} |")
    return "\n".join(lines)


def learning(found: dict[str, dict[str, Any]]) -> str:
    """found: by name, those of the results of learning.py and loader_memory.py that are there."""
    return "\n\n".join(part(found[name]) for name, part in LEARNING.items() if name in found)


def curve(found: dict[str, Any]) -> str:
    points, ends, asked = found["curve"], found["accuracy"], found["asked"]
    rows = {
        "samples": [f"{point['samples']:,}" for point in points],
        "minutes": [f"{point['seconds'] / 60:.1f}" for point in points],
        "loss": [f"{point['loss']:.1f}" for point in points],
        "k-NN": [f"{100 * point['knn']:.1f} %" for point in points],
    }
    names = ("pixels", "untrained", "trained")
    knn = ", ".join(f"{name} {100 * ends[name]['knn']:.1f} %" for name in names)
    probe = ", ".join(f"{name} {100 * ends[name]['linear_probe']:.1f} %" for name in names[1:])
    return "\n".join(
        [
            f"{found['what']}, on a CPU (`tests/bench/learning.py`, commit {found['commit']}). "
            f"k-NN of {asked['neighbours']} among {asked['bank']:,} images, asked about "
            f"{asked['test']:,}: {knn}; linear probe: {probe}.",
            "",
            *(f"| {name} | {' | '.join(cells)} |" for name, cells in list(rows.items())[:1]),
            f"|---|{'---|' * len(points)}",
            *(f"| {name} | {' | '.join(cells)} |" for name, cells in list(rows.items())[1:]),
        ]
    )


def full_length(found: dict[str, Any]) -> str:
    lines = [
        f"ResNet-18, {found['epochs']} epochs on {found['gpu']} (commit {found['commit']}); k-NN "
        f"of {found['asked']['neighbours']}.",
        "",
        "| objective | k-NN | published | minutes |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {100 * told['knn']:.1f} % | {100 * told['target']:.1f} % | "
        f"{told['minutes']:.0f} |"
        for name, told in found["objectives"].items()
    ]
    return "\n".join(lines)


def fractals(found: dict[str, Any]) -> str:
    mean, gain = found["mean"], found["gain"]
    several = found["fractals"].get("objects")
    learnt = f", {several[0]} to {several[1]} in an image" if several else ""
    return (
        f"Fine-tuned on {found['images']:,} images, over {len(found['seeds'])} seeds (commit "
        f"{found['commit']}): {100 * mean['scratch']:.1f} % from scratch, "
        f"{100 * mean['fractals']:.1f} % from a network that told {found['fractals']['systems']} "
        f"fractals apart{learnt}; {100 * gain['value']:+.1f} points [{100 * gain['low']:.1f}, "
        f"{100 * gain['high']:.1f}]."
    )


def memory(found: dict[str, Any]) -> str:
    told = ", ".join(
        f"{name} {case['megabytes_after_epochs'][1]:.0f} MB after the first and "
        f"{case['megabytes_after_epochs'][-1]:.0f} after the last"
        for name, case in found["cases"].items()
    )
    return f"Memory of the loader over ten epochs (`tests/bench/loader_memory.py`): {told}."


def speed(found: dict[str, Any]) -> str:
    """Training and loading on a CPU, against open_clip's."""
    middle, ratios = found["median"], found["ratios"]
    rows = {
        "training, float32: samples a second": ("fp32_samples_s", "open_clip_fp32_samples_s"),
        "training, bfloat16: samples a second": ("bfloat16_samples_s", "open_clip_fp32_samples_s"),
        "loading: samples a CPU second": (
            "loader_samples_cpu_s",
            "open_clip_loader_samples_cpu_s",
        ),
    }
    times = ratios.values()
    lines = [
        f"{found['peer']}, the same CLIP of 64 pixels, tars of 256 pixels, captions of at most "
        f"16 tokens, {found['threads']} threads, medians (`tests/bench/train.py`, commit "
        f"{found['commit']}). The peer's training is float32; where a processor has no bfloat16 "
        "its products are taken in float32 and rounded.",
        "",
        "| | ours | open_clip's | times |",
        "|---|---|---|---|",
    ]
    for (name, (own, peer)), ratio in zip(rows.items(), times, strict=True):
        lines.append(f"| {name} | {middle[own]:.0f} | {middle[peer]:.0f} | {ratio:.2f} |")
    return "\n".join(lines)


def gpu(found: dict[str, Any]) -> str:
    """found: results of train_gpu.py."""
    machine, versions, data = found["machine"], found["versions"], found["data"]
    told = ", ".join(f"{name} {value}" for name, value in versions.items())
    lines = [
        f"{machine.get('gpu', 'a processor')}, {machine['cores']} cores of {machine['processor']}; "
        f"{told} (`tests/bench/train_gpu.py`, commit {found['commit']}). {data['images']:,} JPEGs "
        f"of {data['sides'][0]} to {data['sides'][1]} pixels in {data['tars']} local tars, decoded "
        "anew each time. Shares are of the largest bfloat16 product measured beside each case; "
        "alone is without loading.",
        "",
        "| case | batch | images a second | median step | loader alone | step alone | waiting | "
        "memory | TFLOP/s | share | alone |",
        f"|{'---|' * 11}",
    ]
    for name, case in found["cases"].items():
        if "failed" in case:
            lines.append(f"| {name} | {case['failed']} |{' |' * 9}")
            continue
        cells = [
            f"{case['batch']:,}",
            *(f"{case[key]:,.0f}" for key in ("images_s", "images_s_median", "loader", "model")),
            f"{case['waiting']:.0%}",
            f"{case['gb']:.1f} GB" if "gb" in case else "-",
            f"{case['tflops']:.0f} of {case['matrix_peak']:.0f}",
            f"{case['share']:.0%}",
            f"{case['share_model']:.0%}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def reinforced(found: dict[str, Any]) -> str:
    """found: results of reinforce.py."""
    stored, mean, gain = found["stored"], found["mean"], found["gain"]
    images, epochs, seeds = found["images"], found["epochs"], len(found["seeds"])
    teachers = " and ".join(f"{100 * each:.1f} %" for each in found["teachers"]["accuracy"])
    return (
        f"CIFAR-10, {images['student']:,} images {epochs['student']} times "
        f"(`tests/bench/reinforce.py`, commit {found['commit']}), over {seeds} seeds: "
        f"{100 * mean['labels']:.1f} % from labels, {100 * mean['stored']:.1f} % from "
        f"{stored['views']} stored views of each; {100 * gain['value']:+.1f} points "
        f"[{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]. The teachers, the same network on "
        f"{images['teachers']:,} images, reach {teachers}. {stored['bytes_per_output']:.0f} bytes "
        f"an output, {stored['cpu_milliseconds_per_image']:.0f} CPU-milliseconds an image."
    )


def drawing(found: dict[str, Any]) -> str:
    """Steps that wait for fractals drawn on the fly."""
    told = "; ".join(
        f"{name}: {100 * run['waiting']:.2f} % at {run['images_a_second']:.0f} images a second"
        for name, run in found["runs"].items()
    )
    return (
        f"Share of the time that a ViT-Ti at 64 pixels waits for fractals drawn on the fly, on "
        f"{found['machine']['cores']} cores (`tests/bench/fractal_source.py`, commit "
        f"{found['commit']}): {told}."
    )


LEARNING = {
    "learning": curve,
    "learning_gpu": full_length,
    "learning_fractals": fractals,
    "learning_scenes": fractals,
    "fractal_source": drawing,
    "loader_memory": memory,
}
