"""The text tower of an open_clip model that reads no more tokens than there are."""

from typing import Any

from open_clip import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn.functional import normalize

STEP = 8  # a batch's captions take a multiple of so many tokens: few shapes, and even ones


def reads_on(model: nn.Module) -> bool:
    """Whether a token sees those before it alone, and the last one stands for the caption.

    What comes behind that one is then of no use, and nothing learns from it.
    """
    return (
        isinstance(model, CLIP)
        and model.text_pool_type == "argmax"
        and getattr(model, "attn_mask", None) is not None
    )


def shortened(tokens: Tensor) -> Tensor:
    """Ids [batch, context] without the padding behind the longest caption: [batch, n].

    The last token of a caption has the highest id.
    """
    longest = int(tokens.argmax(1).max()) + 1
    return tokens[:, : -(-longest // STEP) * STEP]


def encode_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """Embeddings [batch, dim] as `model.encode_text` has them, of ids [batch, n].

    Fewer tokens than the model's context only where it `reads_on`.
    """
    tower: Any = model
    length = tokens.shape[1]
    if length == tower.context_length:
        return tower.encode_text(tokens)
    cast = tower.transformer.get_cast_dtype()
    values = tower.token_embedding(tokens).to(cast) + tower.positional_embedding[:length].to(cast)
    values = tower.transformer(values, attn_mask=tower.attn_mask[:length, :length])
    pooled = text_global_pool(tower.ln_final(values), tokens, tower.text_pool_type)
    projection = tower.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


def unit_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """`encode_text` at unit length."""
    return normalize(encode_text(model, tokens), dim=-1)
