"""Keys and values of rows that grow by a token at a time, in memory laid out once.

Row r takes slot r, and its tokens the columns from 0 on: rows of unlike lengths lie side by side without padding, a
finished row's slot goes to the next, and nothing is copied to make room for a token. Layers are transformers' own;
only what they attend to is ours. Works where forests do (`tessera.policy.trunk.packs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tessera.policy.adapters import frozen_layers
from tessera.policy.forest import Forest, How, Row, attention, plant
from tessera.policy.prefix import backbone
from tessera.policy.trunk import embed, run_layers


class Read(NamedTuple):
    """A prompt of P tokens: keys and values [g,P,d] of every layer, what entered the lowest trained layer [P,H], and
    the final hidden state of its last token [H]."""

    keys: list[Tensor]
    values: list[Tensor]
    below_PH: Tensor
    hidden_H: Tensor


class _Reading:
    """A view of distinct prompts packed as a forest, which keeps what each layer attended to."""

    def __init__(self, forest: Forest) -> None:
        self.forest = forest
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    @property
    def position(self) -> Tensor:
        return self.forest.position

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        self.keys.append(key[0])
        self.values.append(value[0])
        return self.forest.attend(layer, query, key, value, how)


def read(causal: Any, prompts: Sequence[tuple[int, ...]]) -> list[Read]:
    """Compute `prompts`, what they have in common once."""
    # Every token of a prompt is asked for, so that the forest tells at which node it stands.
    rows = [Row(prompt[:1], (*prompt[1:], 0), tuple(range(len(prompt)))) for prompt in prompts]
    view = _Reading(plant(rows, causal.get_input_embeddings().weight.device))
    below, hidden = _through(causal, view, view.forest.token_K[None])
    found = []
    for node_P in view.forest.state_N.split([len(prompt) for prompt in prompts]):
        keys, values = ([every[:, node_P] for every in kept] for kept in (view.keys, view.values))
        found.append(Read(keys, values, below[0, node_P], hidden[0, node_P[-1]]))
    return found


def _through(causal: Any, view: Any, token_BT: Tensor) -> tuple[Tensor, Tensor]:
    """What enters the lowest trained layer [B,T,H], and the final hidden states [B,T,H]."""
    decoder, frozen = backbone(causal), frozen_layers(causal)
    below = run_layers(causal, view, embed(causal, token_BT), range(frozen))
    return below, decoder.norm(run_layers(causal, view, below, range(frozen, len(decoder.layers))))


class Slots:
    """Room for `rows` rows of up to `length` tokens. The first `len(lengths)` slots are in use, with so many tokens."""

    def __init__(self, causal: Any, rows: int, length: int) -> None:
        self.causal = causal
        weight, config = causal.get_input_embeddings().weight, causal.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (rows, config.num_key_value_heads, length, size)
        new = {"dtype": weight.dtype, "device": weight.device}
        # Zeros: what no row sees is multiplied by 0 all the same, and must be finite.
        self.keys = [torch.zeros(shape, **new) for _ in backbone(causal).layers]
        self.values = [torch.zeros(shape, **new) for _ in backbone(causal).layers]
        self.lengths: list[int] = []

    def put(self, prompt: Read) -> None:
        """Begin a row after `prompt`, in the next slot."""
        slot, length = len(self.lengths), len(prompt.below_PH)
        for every, one in zip((*self.keys, *self.values), (*prompt.keys, *prompt.values), strict=True):
            every[slot, :, :length] = one
        self.lengths.append(length)

    def drop(self, slot: int) -> None:
        """End the row in `slot`; the row in the last slot takes its place."""
        length = self.lengths.pop()
        if slot < len(self.lengths):
            for every in (*self.keys, *self.values):
                every[slot, :, :length] = every[len(self.lengths), :, :length]
            self.lengths[slot] = length

    def clear(self, slot: int) -> None:
        """Forget the values in `slot`, which are not finite."""
        for every in (*self.keys, *self.values):
            every[slot] = 0

    def grow(self, token_B: Tensor) -> tuple[Tensor, Tensor]:
        """Add a token to every row: what entered the lowest trained layer [B,H], and the final hidden states [B,H]."""
        below, hidden = _through(self.causal, _Growing(self), token_B[:, None])
        self.lengths = [length + 1 for length in self.lengths]
        return below[:, 0], hidden[:, 0]


class _Growing:
    """A view of the newest token of each row."""

    def __init__(self, slots: Slots) -> None:
        device = slots.keys[0].device
        self.slots = slots
        self.width = max(slots.lengths) + 1
        self.row_B = torch.arange(len(slots.lengths), device=device)
        self.length_B = torch.tensor(slots.lengths, device=device)
        self.masks: dict[int | None, Tensor] = {}

    @property
    def position(self) -> Tensor:
        return self.length_B[:, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        keys, values = self.slots.keys[layer], self.slots.values[layer]
        keys[self.row_B, :, self.length_B] = key[:, :, 0]
        values[self.row_B, :, self.length_B] = value[:, :, 0]
        rows, groups = len(self.row_B), key.shape[1]
        # Query heads that share keys stand where a sequence of queries would: no key is repeated for them.
        q = query.reshape(rows, groups, -1, query.shape[-1])
        k, v = keys[:rows, :, : self.width], values[:rows, :, : self.width]
        return attention(q, k, v, self._mask(how.window, query.dtype), how).reshape(query.shape)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        if window not in self.masks:
            behind = self.length_B[:, None] - torch.arange(self.width, device=self.length_B.device)
            hidden = (behind < 0) if window is None else (behind < 0) | (behind >= window)
            zero = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            self.masks[window] = zero.masked_fill(hidden, float("-inf"))[:, None, None]
        return self.masks[window]
