"""Groups as a real policy would make them, and the two ways to take their loss."""

import contextlib
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from tessera import score_group
from tessera.algorithms import build
from tessera.core.batch import Plan, Scored, TokenBatch
from tessera.core.seeding import generator

NAN = float("nan")


@dataclass(frozen=True)
class Case:
    """Some groups of completions. `theta[index]` are the log-probs: completions that share a prefix share its
    entries of `theta`, so a gradient by `theta` does not depend on which of them stands for a shared token. The
    sampler does not know some of its log-probs."""

    batch: TokenBatch
    index_BT: Tensor
    theta: Tensor
    old_BT: Tensor
    ref_BT: Tensor
    eos_BT: Tensor
    sampler_BT: Tensor

    @property
    def logp_BT(self) -> Tensor:
        """Log-probs [B,T], NaN wherever the policy wrote nothing."""
        return torch.where(self.batch.mask_BT, self.theta[self.index_BT], NAN)

    def rows(self, index) -> "Case":
        """Some rows, in any order; a single group keeps the number 0."""
        b = self.batch
        group_B = b.group_B[index]
        only = len(group_B.unique()) == 1
        per_row = {k: x[index] for k, x in vars(b).items() if k.endswith(("_BT", "_B"))}
        per_row["group_B"] = torch.zeros_like(group_B) if only else group_B
        batch = TokenBatch(**per_row, n_groups=1 if only else b.n_groups)
        per_token = (self.old_BT, self.ref_BT, self.eos_BT, self.sampler_BT)
        return Case(batch, self.index_BT[index], self.theta, *(x[index] for x in per_token))

    def padded(self, width: int, fill: float) -> "Case":
        """The same completions with `width` more columns, and `fill` wherever the policy wrote nothing."""
        b = self.batch
        more = torch.nn.functional.pad
        mask_BT = more(b.mask_BT, (0, width))
        inside_BT = torch.arange(mask_BT.shape[1]) < b.lengths_B[:, None]
        tokens_BT = torch.where(inside_BT, more(b.tokens_BT, (0, width)), 999_999)  # ids of tool output are a prefix
        known = (self.old_BT, self.ref_BT, self.eos_BT, self.sampler_BT, b.entropy_BT)
        *floats, entropy_BT = [torch.where(mask_BT, more(x, (0, width)), fill) for x in known]
        batch = replace(b, tokens_BT=tokens_BT, mask_BT=mask_BT, entropy_BT=entropy_BT, eos_logp_BT=floats[2])
        return Case(batch, more(self.index_BT, (0, width)), self.theta, *floats)

    def on_policy(self) -> "Case":
        """The same with old, reference and sampler equal to the policy."""
        now_BT = self.logp_BT.detach()
        return replace(self, old_BT=now_BT, ref_BT=now_BT, sampler_BT=now_BT)


def make_case(sizes=(5,), width=8, seed=0, rewards=None, tool=0.2, spread=0.5) -> Case:
    """Groups of `sizes` ragged completions over two tokens; a share `tool` of the tokens is tool output; old and ref
    log-probs are within `spread` of the policy's, which is beyond a clip of 0.2."""
    rng = torch.Generator().manual_seed(seed)
    B = sum(sizes)
    lengths_B = torch.randint(0, width + 1, (B,), generator=rng)
    inside_BT = torch.arange(width) < lengths_B[:, None]
    tokens_BT = torch.randint(0, 2, (B, width), generator=rng)
    # what the tool says depends on what it is asked, so provenance too is a function of the prefix
    is_tool = torch.rand(3, 2 * width, generator=rng) < tool
    if rewards is None:
        rewards = torch.randn(B, generator=rng, dtype=torch.float64)
    group_B = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    known: dict[tuple, int] = {}
    index_BT = torch.zeros(B, width, dtype=torch.long)
    mask_BT = inside_BT.clone()
    for i in range(B):
        for t in range(int(lengths_B[i])):
            prefix = (int(group_B[i]), *tokens_BT[i, : t + 1].tolist())
            index_BT[i, t] = known.setdefault(prefix, len(known))
            mask_BT[i, t] &= not is_tool[int(group_B[i]) % 3, (sum(prefix[1:-1]) * 3 + t) % (2 * width)]
    theta = -0.05 - 2 * torch.rand(len(known) + 1, generator=rng, dtype=torch.float64)
    apart = [theta + spread * (2 * torch.rand(len(theta), generator=rng, dtype=torch.float64) - 1) for _ in range(2)]
    eos = -0.5 - torch.rand(len(theta), generator=rng, dtype=torch.float64)
    entropy = 3 * torch.rand(len(theta), generator=rng, dtype=torch.float64)
    said = theta + spread * (2 * torch.rand(len(theta), generator=rng, dtype=torch.float64) - 1)
    said[::7] = NAN
    *per_token, entropy_BT = [torch.where(mask_BT, x[index_BT], NAN) for x in (*apart, eos, said, entropy)]
    batch = TokenBatch(
        tokens_BT=tokens_BT,
        lengths_B=lengths_B,
        mask_BT=mask_BT,
        rewards_B=torch.as_tensor(rewards).double(),
        group_B=group_B,
        n_groups=len(sizes),
        truncated_B=lengths_B == width,
        entropy_BT=entropy_BT,
        eos_logp_BT=per_token[2],
    )
    return Case(batch, index_BT, theta, *per_token)


def score(spec, case: Case, *, seed=0, dtype=torch.float64):
    """`score_group` on a case of one group: its Loss, the gradient by logp [B,T] and the gradient by theta."""
    algorithm = build(spec)
    theta = case.theta.clone().requires_grad_()
    logp = replace(case, theta=theta).logp_BT.to(dtype)
    logp.retain_grad()
    loss = score_group(
        algorithm.name,
        config={"name": spec} if isinstance(spec, str) else spec,
        rewards=case.batch.rewards_B,
        tokens=case.batch.tokens_BT,
        logp=logp,
        lengths=case.batch.lengths_B,
        old_logp=case.old_BT,
        ref_logp=case.ref_BT,
        eos_logp=case.eos_BT if "eos_logp" in algorithm.needs else None,
        entropy=case.batch.entropy_BT if "entropy" in algorithm.needs else None,
        truncated=case.batch.truncated_B if "truncated" in algorithm.needs else None,
        sampler_logp=case.sampler_BT,
        mask=case.batch.mask_BT,
        seed=seed,
    )
    loss.value.backward()
    return loss, logp.grad, theta.grad


def plan(spec, case: Case, seed=0) -> Plan:
    """PLAN for all rows."""
    return build(spec).plan(case.batch, generator(seed, "selection"))


def learn(spec, case: Case, whole: Plan, parts):
    """LEARN with the rows cut into `parts`: the loss of the step, and its gradient by logp [B,T].

    Weights are taken over the whole step, as the trainer takes them; then every part goes through backward alone.
    """
    algorithm = build(spec)
    logp_BT = case.logp_BT.nan_to_num().requires_grad_()
    value = 0.0
    for part in parts:
        step = algorithm.weigh(_scored(case, whole, logp_BT))
        rows = {k: getattr(step, k)[part] for k in vars(step) if k.endswith(("_BT", "_B"))}
        loss = (whole.share_BT[part] * algorithm.token_loss(replace(step, **rows)).loss_BT).sum()
        loss.backward()
        value += loss.item()
    return value, logp_BT.grad


def _scored(case: Case, whole: Plan, logp_BT: Tensor) -> Scored:
    return Scored(
        logp_BT=logp_BT,
        old_BT=case.old_BT.nan_to_num(),
        ref_BT=case.ref_BT.nan_to_num(),
        advantage_BT=whole.advantage_BT,
        selected_BT=whole.selected_BT,
        weight_BT=torch.ones_like(case.old_BT),
        draw_BT=whole.draw_BT,
        group_B=case.batch.group_B,
        n_groups=case.batch.n_groups,
        sampler_BT=case.sampler_BT,
    )


class Stopped:
    """Every stop-gradient held at what it was in a first evaluation, so that finite differences see what autograd
    sees: `detach` returns the recorded tensors, in the order of the calls."""

    def __init__(self, monkeypatch):
        self.patch, self.detach, self.tape = monkeypatch, torch.Tensor.detach, []

    @contextlib.contextmanager
    def recording(self):
        """Evaluate inside to record."""
        self.tape = []

        def record(x):
            self.tape.append(self.detach(x).clone())
            return self.tape[-1]

        with self.patch.context() as patch:
            patch.setattr(torch.Tensor, "detach", record)
            yield

    @contextlib.contextmanager
    def replaying(self):
        """Evaluate inside, at another point, with the recorded values."""
        tape = iter(self.tape)
        with self.patch.context() as patch:
            patch.setattr(torch.Tensor, "detach", lambda x: next(tape))
            yield


@dataclass(frozen=True)
class Contract:
    """What the suites use."""

    make_case = staticmethod(make_case)
    score = staticmethod(score)
    plan = staticmethod(plan)
    learn = staticmethod(learn)
    Stopped = Stopped


@pytest.fixture(scope="session")
def contract() -> Contract:
    """The builders above; a fixture, since test folders are no packages."""
    return Contract()
