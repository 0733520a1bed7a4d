"""Whole image-to-text models with random weights, made on the spot; nothing is downloaded."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

SIDE = 32  # pixels of an image
WORDS = (
    "a", "the", "of", "on", "with", "red", "green", "blue", "grey", "dark", "small", "round",
    "picture", "photo", "circle", "line", "wall", "cat", "dog", "tree", "house", "car",
)  # fmt: skip
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<image>")
SIZE = {"height": SIDE, "width": SIDE}
CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def tokenizer(**more: Any) -> PreTrainedTokenizerFast:
    """A word is a token."""
    vocabulary = {word: place for place, word in enumerate((*SPECIAL, *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", **more,
    )  # fmt: skip


def bert_tokenizer(folder: Path) -> BertTokenizerFast:
    """BERT's, as BLIP and GIT have it: it ends a text with [SEP]."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join((*SPECIAL, *WORDS)))
    return BertTokenizerFast(str(folder / "vocab.txt"))


TEXT: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + len(WORDS), "hidden_size": 32, "intermediate_size": 37,
    "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 96,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "initializer_range": 0.5,
}  # fmt: skip
SEEN: dict[str, Any] = {
    "image_size": SIDE, "patch_size": 8, "hidden_size": 32, "intermediate_size": 37,
    "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.5,
}  # fmt: skip


def blip(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    place = folder / "tiny-blip"
    text = {**TEXT, "sep_token_id": 3, "encoder_hidden_size": 32, "is_decoder": True}
    config = BlipConfig(text_config=text, vision_config=SEEN, projection_dim=16)
    BlipForConditionalGeneration(config).save_pretrained(place)
    BlipProcessor(BlipImageProcessor(size=SIZE), bert_tokenizer(place)).save_pretrained(place)
    return place


def git(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    place = folder / "tiny-git"
    GitForCausalLM(GitConfig(vision_config=SEEN, **TEXT)).save_pretrained(place)
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIZE)
    GitProcessor(images, bert_tokenizer(place)).save_pretrained(place)
    return place


def encoder_decoder(folder: Path, seed: int = 0) -> Path:
    """A ViT and a GPT-2, as of old: a tokenizer and an image processor, and no processor."""
    torch.manual_seed(seed)
    place = folder / "tiny-encoder-decoder"
    decoder = GPT2Config(
        vocab_size=TEXT["vocab_size"], n_embd=32, n_layer=2, n_head=4, n_positions=64,
        bos_token_id=2, eos_token_id=3, pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**SEEN), decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    VisionEncoderDecoderModel(config).save_pretrained(place)
    tokenizer().save_pretrained(place)
    ViTImageProcessor(size=SIZE).save_pretrained(place)
    return place


def llava(folder: Path, seed: int = 0) -> Path:
    """A model made for talks, with a chat template."""
    torch.manual_seed(seed)
    place = folder / "tiny-llava"
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SEEN), text_config=LlamaConfig(**TEXT),
        image_token_index=5, vision_feature_layer=-1,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(place)
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIZE),
        tokenizer(additional_special_tokens=["<image>"]), patch_size=8,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHAT,
    )  # fmt: skip
    processor.save_pretrained(place)
    return place


EVERY = {"blip": blip, "git": git, "encoder_decoder": encoder_decoder, "llava": llava}
