"""Which backbone carries which objective: one real step of each pair, a model for each family.

The answers lie in pretrain/capabilities.json, where the settings of a run are checked against them,
and make the table in pretrain/README.md. Those that are there are not asked again, but with --anew.
Run: python tests/bench/backbones.py [--anew] [FAMILY ...]     all families where none is named
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import timm

from pretrain import options
from pretrain.capabilities import FILE
from pretrain.probe import can

# Of each family a small member, and an image size that is quick for it; of some only their own.
FAMILIES: dict[str, tuple[str, int]] = {
    "ViT": ("vit_tiny_patch16_224", 64),
    "DeiT": ("deit_tiny_distilled_patch16_224", 64),
    "BEiT": ("beit_base_patch16_224", 64),
    "EVA-02": ("eva02_tiny_patch14_224", 56),
    "DINOv3 ViT": ("vit_tiny_patch16_dinov3_qkvb", 64),
    "Swin": ("swin_tiny_patch4_window7_224", 64),
    "Swin V2": ("swinv2_tiny_window8_256", 64),
    "ConvNeXt": ("convnext_atto", 64),
    "ConvNeXt V2": ("convnextv2_atto", 64),
    "MaxViT": ("maxvit_rmlp_pico_rw_256", 256),
    "VOLO": ("volo_d1_224", 224),
    "GC ViT": ("gcvit_xxtiny", 224),
    "Twins": ("twins_svt_small", 64),
    "PVT v2": ("pvt_v2_b0", 64),
    "TNT": ("tnt_s_legacy_patch16_224", 64),
    "CrossViT": ("crossvit_tiny_240", 240),
    "ConViT": ("convit_tiny", 64),
    "HaloNet": ("halonet26t", 256),
    "InceptionNeXt": ("inception_next_atto", 64),
    "MambaOut": ("mambaout_femto", 64),
    "ECA-ResNet": ("ecaresnet26t", 64),
    "VoVNet": ("ese_vovnet19b_dw", 64),
    "MobileNetV2": ("mobilenetv2_035", 64),
    "MobileNetV4": ("mobilenetv4_conv_small", 64),
    "NASNet": ("nasnetalarge", 96),
    "ResNet": ("resnet10t", 64),
    "ResNet-RS": ("resnetrs50", 64),
    "RegNet": ("regnetx_002", 64),
    "EfficientNet": ("efficientnet_b0", 64),
    "DenseNet": ("densenet121", 64),
    "SHViT": ("shvit_s1", 128),
    "EfficientFormer": ("efficientformer_l1", 224),
    "EfficientFormerV2": ("efficientformerv2_s0", 224),
    "CoAtNet": ("coatnet_pico_rw_224", 224),
    "CaiT": ("cait_xxs24_224", 64),
    "XCiT": ("xcit_nano_12_p16_224", 64),
    "Hiera": ("hiera_tiny_224", 224),
    "StarNet": ("starnet_s1", 64),
    "FastViT": ("fastvit_t8", 64),
    "RepViT": ("repvit_m0_9", 64),
    "TinyViT": ("tiny_vit_5m_224", 224),
    "Next-ViT": ("nextvit_small", 64),
    "FocalNet": ("focalnet_tiny_srf", 64),
    "RDNet": ("rdnet_tiny", 64),
    "DaViT": ("davit_tiny", 64),
    "CAFormer": ("caformer_s18", 64),
    "SwiftFormer": ("swiftformer_xs", 224),
    "LeViT": ("levit_128s", 224),
    "MobileViT": ("mobilevit_xxs", 64),
    "EdgeNeXt": ("edgenext_xx_small", 64),
    "PiT": ("pit_ti_224", 224),
    "ResMLP": ("resmlp_12_224", 224),
}


def ask(family: str, known: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answers of a family, those that are known included; None where a step killed its process.

    A process of its own takes the steps: PyTorch may crash on a network that few use.
    """
    model, size = FAMILIES[family]
    answers: dict[str, Any] = {}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        for objective in options.names():
            if objective in known:
                answers[objective] = known[objective]
                continue
            towers = options.declared(objective).needs.model == "open_clip"
            try:
                verdict = apart.submit(can, model, objective, None if towers else size).result()
            except BrokenProcessPool:
                print(family, objective, "its process died; the family is left out", flush=True)
                return None
            print(family, objective, verdict.outcome, verdict.reason, flush=True)
            answers[objective] = [verdict.outcome, verdict.reason]
    return answers


def main(wanted: Sequence[str], anew: bool) -> None:
    """Ask of the wanted families what is missing, or all; keep a family's answers once it is done.

    The answers of a family are asked anew, too, where another model stands for it now.
    """
    kept: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"families": {}}
    kept["timm"] = timm.__version__
    families: dict[str, Any] = kept["families"]
    for family in wanted:
        model, size = FAMILIES[family]
        told = families.get(family, {})
        same = (told.get("model"), told.get("image_size")) == (model, size)
        answers = ask(family, told["answers"] if same and not anew else {})
        if answers is not None:
            families[family] = {"model": model, "image_size": size, "answers": answers}
            kept["families"] = {name: families[name] for name in FAMILIES if name in families}
            FILE.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="one of FAMILIES")
    parser.add_argument("--anew", action="store_true", help="ask what is known, too")
    asked = parser.parse_args()
    if unknown := set(asked.families) - FAMILIES.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no such family; use {', '.join(FAMILIES)}")
    main(asked.families or list(FAMILIES), asked.anew)
