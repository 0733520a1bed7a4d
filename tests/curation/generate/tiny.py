"""Whole diffusers pipelines with random weights, a few hundred kilobytes each, made on the spot.

The classes are those of released pipelines; sizes alone are tiny. Nothing is downloaded.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

SIDE = 32  # pixels of an image
CONTEXT = 24  # tokens of a prompt


def tokenizer() -> CLIPTokenizer:
    """CLIP's, with letters for a vocabulary: every word is spelt."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: place for place, word in enumerate(words)}
    vocabulary |= {"<|startoftext|>": len(words), "<|endoftext|>": len(words) + 1}
    return CLIPTokenizer(vocabulary, [], model_max_length=CONTEXT)


def text_config(tokens: CLIPTokenizer, **more: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=37, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=CONTEXT, bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1, pad_token_id=len(tokens) - 1, **more,
    )  # fmt: skip


def decoder(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32), layers_per_block=1, latent_channels=channels,
        norm_num_groups=8, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, sample_size=SIDE,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def checker(refuses: bool = False) -> StableDiffusionSafetyChecker:
    """A safety checker that lets everything pass, or nothing."""
    vision = {
        "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1,
        "num_attention_heads": 4, "image_size": SIDE, "patch_size": 8,
    }  # fmt: skip
    made = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
    bound = -2.0 if refuses else 2.0  # of a cosine
    for name in ("concept_embeds_weights", "special_care_embeds_weights"):
        getattr(made, name).data.fill_(bound)
    return made


def diffusion(folder: Path, seed: int = 0, safety: bool = True, refuses: bool = False) -> Path:
    """A Stable Diffusion, saved to a folder; images of SIDE pixels."""
    torch.manual_seed(seed)
    tokens = tokenizer()
    unet = UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=SIDE // 2, in_channels=4,
        out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=32,
        norm_num_groups=8, attention_head_dim=8,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=decoder(4),
        text_encoder=CLIPTextModel(text_config(tokens)),
        tokenizer=tokens,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=checker(refuses) if safety else None,
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        ),
        requires_safety_checker=safety,
    )
    place = folder / "tiny-diffusion"
    pipeline.save_pretrained(place)
    return place


def transformer(folder: Path, seed: int = 0) -> Path:
    """A Stable Diffusion 3: a transformer, flow matching, two text encoders, no checker."""
    torch.manual_seed(seed)
    tokens = tokenizer()
    encoders = [
        CLIPTextModelWithProjection(text_config(tokens, projection_dim=32, hidden_act="gelu"))
        for _ in range(2)
    ]
    model = SD3Transformer2DModel(
        sample_size=SIDE // 2, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32,
        pooled_projection_dim=64, out_channels=4,
    )  # fmt: skip
    vae = decoder(4)
    vae.register_to_config(shift_factor=0.06)
    pipeline = StableDiffusion3Pipeline(
        transformer=model, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae,
        text_encoder=encoders[0], tokenizer=tokens, text_encoder_2=encoders[1],
        tokenizer_2=tokens, text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip
    place = folder / "tiny-transformer"
    pipeline.save_pretrained(place)
    return place


def detector(folder: Path, labels: tuple[str, ...] = ("cat", "dog"), seed: int = 0) -> Path:
    """An object detector (YOLOS), saved to a folder."""
    torch.manual_seed(seed)
    config = YolosConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=37,
        image_size=[SIDE, SIDE], patch_size=8, num_detection_tokens=5,
        id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)},
    )  # fmt: skip
    place = folder / "tiny-detector"
    YolosForObjectDetection(config).save_pretrained(place)
    size = {"shortest_edge": SIDE, "longest_edge": SIDE}
    YolosImageProcessor(size=size).save_pretrained(place)
    return place
