"""Shared-prefix forward: each distinct prompt is computed once, and every row that starts with it continues from it.

Shorter prompts are padded on the left, so that the tokens of a row lie side by side: layers with a sliding window count
columns. Works with gradient (keys and values stay in the graph) and without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tessera.core.batch import pad_rows
from tessera.core.errors import TesseraError


def causal_lm(model: nn.Module) -> Any:
    """The transformers causal language model inside a PeftModel (its layers hold the adapter), or `model` itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def backbone(causal: Any) -> Any:
    """The decoder without its vocabulary head."""
    return getattr(causal, causal.base_model_prefix)


@dataclass
class Prefix:
    """Keys and values of B rows so far, and the final hidden state of each row's newest token.

    `hidden_BH` [B,H]; `lengths_B` [B] long, prompt tokens of each row; `width` columns that the prompts take in the
    cache, on the left of which shorter ones are padded (`ragged`); `seen` tokens after the prompt.
    """

    cache: DynamicCache
    hidden_BH: Tensor
    lengths_B: Tensor
    width: int
    ragged: bool
    seen: int = 0

    def select(self, index: Tensor) -> None:
        """Keep or repeat rows in place: row i becomes what row `index[i]` was."""
        self.cache.batch_select_indices(index)
        self.hidden_BH = self.hidden_BH[index]
        self.lengths_B = self.lengths_B[index]


def prefill(causal: Any, prompts: Sequence[Sequence[int]]) -> Prefix:
    """Compute each prompt once. `prompts` are non-empty lists of token ids."""
    device = causal.get_input_embeddings().weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    tokens_PT = pad_rows([prompt[::-1] for prompt in prompts]).flip(1).to(device)
    width = tokens_PT.shape[1]
    cache = DynamicCache(config=causal.config)
    position_PT = torch.arange(width, device=device) - (width - lengths[:, None])
    ragged = bool((lengths != width).any())
    mask = position_PT >= 0 if ragged else None
    hidden_PTH = _forward(causal, tokens_PT, cache, mask, position_PT.clamp(min=0))
    return Prefix(cache, hidden_PTH[:, -1], lengths, width, ragged)


def extend(causal: Any, prefix: Prefix, tokens_BT: Tensor) -> Tensor:
    """Continue every row of `prefix` with T more tokens (right-padded rows are fine). Returns hidden states [B,T,H]."""
    B, T = tokens_BT.shape
    device = tokens_BT.device
    ahead_T = prefix.seen + torch.arange(T, device=device)
    mask = None
    if prefix.ragged:
        prompt_BW = torch.arange(prefix.width, device=device) >= prefix.width - prefix.lengths_B[:, None]
        rest = torch.ones(B, prefix.seen + T, dtype=torch.bool, device=device)
        mask = torch.cat([prompt_BW, rest], dim=1)
    hidden_BTH = _forward(causal, tokens_BT, prefix.cache, mask, prefix.lengths_B[:, None] + ahead_T)
    prefix.seen += T
    prefix.hidden_BH = hidden_BTH[:, -1]
    return hidden_BTH


def _forward(causal: Any, tokens: Tensor, cache: DynamicCache, mask: Tensor | None, position: Tensor) -> Tensor:
    before = cache.get_seq_length()
    out = backbone(causal)(
        input_ids=tokens, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
    )
    if cache.get_seq_length() != before + tokens.shape[1]:
        raise TesseraError("the key-value cache is not live: switch gradient checkpointing off (it disables the cache)")
    hidden: Tensor = out.last_hidden_state
    return hidden
