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
