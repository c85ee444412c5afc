"""Small batches written out by hand."""

import pytest
import torch

from tessera.core.batch import Scored, make_batch


@pytest.fixture(scope="session")
def written():
    """A TokenBatch from `(group, reward, tokens)` rows; a token in brackets is tool output: `[1, [9], 2]`."""

    def build(*rows):
        plain = [[t[0] if isinstance(t, list) else t for t in tokens] for _, _, tokens in rows]
        sampled = [[not isinstance(t, list) for t in tokens] for _, _, tokens in rows]
        return make_batch(plain, sampled, [reward for _, reward, _ in rows], [group for group, _, _ in rows])

    return build


@pytest.fixture(scope="session")
def one_row():
    """A Scored of one completion from plain lists, in float64; `logp` may require grad."""

    def build(logp, *, old=None, ref=None, advantage=None, weight=None):
        logp_BT = torch.as_tensor(logp, dtype=torch.float64)[None]
        fixed_BT = logp_BT.detach()

        def row(x, default_BT):
            return default_BT if x is None else torch.tensor([x], dtype=torch.float64)

        ones_BT = torch.ones_like(fixed_BT)
        return Scored(
            logp_BT=logp_BT,
            old_BT=row(old, fixed_BT),
            ref_BT=row(ref, fixed_BT),
            advantage_BT=row(advantage, ones_BT),
            selected_BT=torch.ones_like(fixed_BT, dtype=torch.bool),
            weight_BT=row(weight, ones_BT),
            draw_BT=torch.zeros_like(ones_BT),
            group_B=torch.zeros(1, dtype=torch.long),
            n_groups=1,
        )

    return build
