"""The decoder in two parts: the frozen layers, run once without gradient, and the ones that learn.

With adapters on the last layers only, everything below the lowest of them is a constant function of the tokens. Its
output feeds the policy, the reference and every further update of the same rows. Layers run on a packed forest, one
after the other, for the families whose layers are known to be functions of (hidden states, positions, attention).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from tessera.policy.adapters import frozen_layers
from tessera.policy.forest import Forest, attend
from tessera.policy.prefix import backbone

log = logging.getLogger("tessera")

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"})
ATTENTION = "tessera_forest"
_told: set[str] = set()


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
            forest.below_KH = _run(causal, forest, _embed(decoder, forest), range(frozen))[0]
    start = _embed(decoder, forest) if forest.below_KH is None else forest.below_KH[None]
    upper = range(frozen, len(decoder.layers))
    hidden: Tensor = decoder.norm(_run(causal, forest, start, upper, recompute=recompute and torch.is_grad_enabled()))
    return hidden[0]


@contextmanager
def tapped(causal: Any, catch: Callable[[Tensor], None]) -> Iterator[None]:
    """Within the context `catch` is given the hidden states [B,T,H] that enter the lowest trained layer.

    It is given nothing where there are no frozen layers below it, or where their output could not be used again.
    """
    frozen = frozen_layers(causal)
    if not frozen or not packs(causal) or frozen == len(backbone(causal).layers):
        yield
        return
    handle = backbone(causal).layers[frozen].register_forward_pre_hook(lambda module, inputs: catch(inputs[0]))
    try:
        yield
    finally:
        handle.remove()


def _embed(decoder: Any, forest: Forest) -> Tensor:
    hidden: Tensor = decoder.embed_tokens(forest.token_K[None])
    return hidden


def _run(causal: Any, forest: Forest, hidden: Tensor, layers: range, *, recompute: bool = False) -> Tensor:
    decoder = backbone(causal)
    position = forest.depth_K[None]
    angles = _rotary(decoder, hidden, position)
    for i in layers:
        run = _layer(decoder.layers[i], decoder.config, forest, angles(i), position)
        hidden = checkpoint(run, hidden, use_reentrant=False) if recompute else run(hidden)
    return hidden


def _layer(layer: nn.Module, config: Any, forest: Forest, angles: Any, position: Tensor) -> Callable[[Tensor], Tensor]:
    def run(hidden: Tensor) -> Tensor:
        before = config._attn_implementation
        config._attn_implementation = ATTENTION
        try:
            out = layer(hidden, attention_mask=forest, position_embeddings=angles, position_ids=position)
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
    attention_mask: Forest,
    *,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What the layers call: transformers hands over whatever stands for its mask, here the forest."""
    out = attend(attention_mask, query, key, value, scale=scaling, window=sliding_window, softcap=softcap)
    return out.transpose(1, 2), None


AttentionInterface.register(ATTENTION, _attention)
