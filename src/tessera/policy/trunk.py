"""The decoder in two parts: the frozen layers, run once without gradient, and the ones that learn.

With adapters on the last layers only, everything below the lowest of them is a constant function of the tokens. Its
output feeds the policy, the reference and every further update of the same rows. Layers run on a packed forest, one
after the other, for the families whose layers are known to be functions of (hidden states, positions, attention).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from tessera.policy.adapters import frozen_layers
from tessera.policy.forest import Forest, How
from tessera.policy.prefix import backbone

log = logging.getLogger("tessera")

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"})
ATTENTION = "tessera_forest"
_told: set[str] = set()


class View(Protocol):
    """What tokens see of each other and of earlier ones: `position` [B,T], and attention of queries [B,h,T,d] to keys
    and values [B,g,T,d] in a layer, by its number. A Forest is one."""

    @property
    def position(self) -> Tensor:
        """Where each token stands in its row, from 0."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """What the queries see [B,h,T,d]; h is a multiple of g."""


def packs(causal: Any) -> bool:
    """Whether `causal` runs on packed forests. One that does not is named in the log, once."""
    config = causal.config
    special = getattr(config, "use_bidirectional_attention", False) or getattr(config, "attention_dropout", 0)
    known = config.model_type in FAMILIES and not special
    if not known and config.model_type not in _told:
        _told.add(config.model_type)
        log.warning(
            "models of type %s are scored row by row: no prefix but the prompt is shared, and no output of frozen "
            "layers is reused (that works for %s)",
            config.model_type,
            ", ".join(sorted(FAMILIES)),
        )
    return known


def states(causal: Any, forest: Forest, *, recompute: bool = False) -> Tensor:
    """Final hidden states [K,H] of a forest's nodes; fills `forest.below_KH` if it is not known yet.

    With `recompute`, a layer keeps its input alone for backward and is run again there (gradient checkpointing).
    """
    decoder, frozen = backbone(causal), frozen_layers(causal)
    if frozen and forest.below_KH is None:
        with torch.no_grad():
            forest.below_KH = run_layers(causal, forest, embed(causal, forest.token_K[None]), range(frozen))[0]
    start = embed(causal, forest.token_K[None]) if forest.below_KH is None else forest.below_KH[None]
    upper = range(frozen, len(decoder.layers))
    recompute = recompute and torch.is_grad_enabled()
    hidden: Tensor = decoder.norm(run_layers(causal, forest, start, upper, recompute=recompute))
    return hidden[0]


def embed(causal: Any, token_BT: Tensor) -> Tensor:
    """What the first layer is given [B,T,H]."""
    hidden: Tensor = backbone(causal).embed_tokens(token_BT)
    return hidden


def run_layers(causal: Any, view: View, hidden: Tensor, layers: range, *, recompute: bool = False) -> Tensor:
    """Hidden states [B,T,H] after `layers`, of tokens that see each other and earlier ones as `view` has it."""
    decoder = backbone(causal)
    angles = _rotary(decoder, hidden, view.position)
    for i in layers:
        run = _layer(decoder.layers[i], decoder.config, view, angles(i))
        hidden = checkpoint(run, hidden, use_reentrant=False) if recompute else run(hidden)
    return hidden


def _layer(layer: nn.Module, config: Any, view: View, angles: Any) -> Callable[[Tensor], Tensor]:
    def run(hidden: Tensor) -> Tensor:
        before = config._attn_implementation
        config._attn_implementation = ATTENTION
        try:
            out = layer(hidden, attention_mask=view.attend, position_embeddings=angles, position_ids=view.position)
        finally:
            config._attn_implementation = before
        given: Tensor = out[0] if isinstance(out, tuple) else out
        return given

    return run


def _rotary(decoder: Any, hidden: Tensor, position: Tensor) -> Callable[[int], Any]:
    """The rotary angles for layer i. Gemma 3 has other ones for its layers with a sliding window."""
    config = decoder.config
    if config.model_type != "gemma3_text":
        angles = decoder.rotary_emb(hidden, position)
        return lambda i: angles
    of = {kind: decoder.rotary_emb(hidden, position, kind) for kind in set(config.layer_types)}
    return lambda i: of[config.layer_types[i]]


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Callable[[int, Tensor, Tensor, Tensor, How], Tensor],
    *,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What the layers call: transformers hands over whatever stands for its mask, here the view's `attend`."""
    out = attention_mask(module.layer_idx, query, key, value, How(scaling, sliding_window, softcap))
    return out.transpose(1, 2), None


AttentionInterface.register(ATTENTION, _attention)
