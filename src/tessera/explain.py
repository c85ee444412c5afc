"""What an algorithm does to every token of a small group: `tessera explain`.

The group is an illustration: its texts and probabilities are made up. What is made of them is `tessera.score_group`'s.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tessera.algorithms import Algorithm, build, registered, score_group
from tessera.algorithms.registry import idle_keys
from tessera.core.batch import pad_rows
from tessera.core.errors import UserError, unknown
from tessera.pieces import CORRECTION, Chain, Piece
from tessera.recipe import apply_overrides, read_recipe, shipped_recipes
from tessera.training.settings import RLStage

PROMPT = "17 + 25 ="
END = "<end>"
LIMIT = 9  # tokens of a completion at most


class Drawn(NamedTuple):
    """A token with its probability under the policy, the policy that sampled and the reference; of the place where it
    was drawn, the entropy (nats) and the probability of ending, both of the policy that sampled."""

    text: str
    p: float
    old: float
    ref: float
    entropy: float
    end: float


# Completions that begin alike share these; the numbers of a place are the same in all completions that pass through it.
_SUM = (
    Drawn("7", 0.62, 0.60, 0.55, 1.15, 0.002),
    Drawn("+", 0.97, 0.96, 0.95, 0.20, 0.001),
    Drawn("5", 0.98, 0.97, 0.97, 0.15, 0.001),
    Drawn("=", 0.96, 0.95, 0.95, 0.24, 0.002),
)
_RIGHT = (*_SUM, Drawn("12", 0.90, 0.84, 0.80, 0.60, 0.001))
_WRONG = (*_SUM, Drawn("13", 0.05, 0.08, 0.10, 0.60, 0.001))
_SO = (Drawn(",", 0.50, 0.52, 0.50, 1.25, 0.050), Drawn("so", 0.80, 0.78, 0.75, 0.75, 0.002))

# The first few are the default: right with working, a slip at the end, cut off at the limit, right without working.
COMPLETIONS = (
    (*_RIGHT, *_SO, Drawn("42", 0.56, 0.42, 0.40, 1.05, 0.001), Drawn(END, 0.93, 0.90, 0.90, 0.35, 0.900)),
    (*_RIGHT, *_SO, Drawn("32", 0.33, 0.44, 0.45, 1.05, 0.001), Drawn(END, 0.92, 0.90, 0.90, 0.35, 0.900)),
    (
        *_RIGHT,
        Drawn(".", 0.20, 0.18, 0.18, 1.25, 0.050),
        Drawn("Then", 0.12, 0.11, 0.10, 2.30, 0.120),
        Drawn("10", 0.45, 0.42, 0.40, 1.60, 0.003),
        Drawn("+", 0.90, 0.88, 0.88, 0.45, 0.002),
    ),
    (Drawn("42", 0.22, 0.20, 0.18, 1.15, 0.002), Drawn(END, 0.70, 0.80, 0.80, 0.60, 0.800)),
    (Drawn("32", 0.05, 0.07, 0.08, 1.15, 0.002), Drawn(END, 0.68, 0.66, 0.70, 0.80, 0.660)),
    (
        *_WRONG,
        Drawn(",", 0.55, 0.52, 0.50, 1.10, 0.060),
        Drawn("so", 0.82, 0.80, 0.78, 0.70, 0.002),
        Drawn("43", 0.60, 0.58, 0.60, 0.95, 0.001),
        Drawn(END, 0.91, 0.90, 0.90, 0.36, 0.900),
    ),
)
REWARDS = (1.0, 0.0, 0.0, 1.0)
LARGEST_SHIFT = 2.0


@dataclass(frozen=True)
class Method:
    """What the docstring of an algorithm's module says: headline, source, equation, and which symbol is which key."""

    headline: str = ""
    source: str = ""
    equation: str = ""
    symbols: str = ""


@dataclass(frozen=True)
class TokenCredit:
    """A token: its probability, the ratio to the sampling policy's, what the composition gives it, and `push`, minus
    the derivative of the loss by its log-prob: above 0, the update makes the token likelier."""

    text: str
    probability: float
    ratio: float
    selected: bool
    advantage: float
    weight: float
    push: float


@dataclass(frozen=True)
class CompletionCredit:
    """A completion with its reward, whether it was cut off at the length limit, and its tokens."""

    reward: float
    truncated: bool
    tokens: tuple[TokenCredit, ...]


@dataclass(frozen=True)
class Explanation:
    """A composition and what it does. `exchanged`: kinds whose piece is not the method's own; `stage`: of a recipe."""

    algorithm: Algorithm
    method: Method
    exchanged: tuple[str, ...]
    loss: float
    completions: tuple[CompletionCredit, ...]
    stage: str = ""

    @property
    def tokens(self) -> list[TokenCredit]:
        """The tokens of all completions."""
        return [token for completion in self.completions for token in completion.tokens]


def explain_source(source: str, overrides: Sequence[str] = (), **group: Any) -> list[Explanation]:
    """Explain an algorithm by name, or the one of every RL stage of a recipe, with `key=value` overrides of either.

    `group` are the keywords of `explain`. Raises UserError for an unknown name or key, for pieces that do not fit each
    other, and for a key that would do nothing.
    """
    if source not in registered() and not _names_a_recipe(source):
        raise unknown("algorithm", source, registered())
    if source not in registered():
        recipe = read_recipe(source, overrides)
        stages = [stage for stage in recipe.stages if isinstance(stage, RLStage)]
        if not stages:
            raise UserError(f"recipe {source} has no RL stage, and so no algorithm to explain")
        folder = Path(str(recipe.data_dir))
        return [explain(_checked(stage.algorithm, folder), stage=stage.name, **group) for stage in stages]
    spec = apply_overrides({"name": source}, overrides)
    if spec["name"] != source:
        raise UserError(f"override name={spec['name']}: the algorithm is the first argument, {source}")
    return [explain(_checked(spec, None), **group)]


def explain(
    algorithm: Algorithm,
    *,
    rewards: Sequence[float] = REWARDS,
    seed: int = 0,
    old_shift: float = 1.0,
    stage: str = "",
) -> Explanation:
    """What `algorithm` makes of the first `len(rewards)` completions of the built-in group.

    `seed` is that of random selections and weights. `old_shift` multiplies log(p / p old), from 0 (the first update of
    a rollout: every ratio is 1) to 2.
    """
    if not 0 < len(rewards) <= len(COMPLETIONS):
        raise UserError(f"rewards: the built-in group has {len(COMPLETIONS)} completions, got {len(rewards)} rewards")
    if not 0 <= old_shift <= LARGEST_SHIFT:
        raise UserError(f"old_shift must lie in 0..{LARGEST_SHIFT:g}, got {old_shift}")
    rows = COMPLETIONS[: len(rewards)]
    loss, table = _score(algorithm, rewards, seed, old_shift)
    own = build(algorithm.name).pieces
    return Explanation(
        algorithm=algorithm,
        method=read_method(sys.modules[registered()[algorithm.name].compose.__module__].__doc__ or ""),
        exchanged=tuple(kind for kind, piece in algorithm.pieces.items() if piece.name != own[kind].name),
        loss=loss,
        completions=tuple(
            CompletionCredit(reward, _cut_off(row), tuple(map(_credit, row, line)))
            for reward, row, line in zip(rewards, rows, table, strict=True)
        ),
        stage=stage,
    )


def read_rewards(text: str) -> tuple[float, ...]:
    """Numbers between commas, as in `1,0,0.5`."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"rewards must be numbers between commas, such as 1,0,0,1, got {text!r}") from None


def read_method(docstring: str) -> Method:
    """The parts of the docstring of an algorithm's module that explain it; what is not there is empty."""
    headline, *others = inspect.cleandoc(docstring).split("\n\n")
    at = next((i for i, part in enumerate(others) if part.startswith("    ")), None)
    if at is None:
        return Method(headline)
    source, symbols = " ".join(others[:at]), " ".join(others[at + 1 : at + 2])
    return Method(headline, " ".join(source.split()), others[at], " ".join(symbols.split()))


def _names_a_recipe(source: str) -> bool:
    return Path(source).is_file() or source in shipped_recipes() or "/" in source or source.endswith((".yaml", ".yml"))


def _checked(spec: dict[str, Any], folder: Path | None) -> Algorithm:
    algorithm = build(spec, folder)
    for key in idle_keys(spec, folder):
        raise UserError(f"{key} would do nothing beside the other keys of algorithm {algorithm.name}")
    return algorithm


def _score(
    algorithm: Algorithm, rewards: Sequence[float], seed: int, old_shift: float
) -> tuple[float, list[list[list[float]]]]:
    """The loss, and by row and token what a TokenCredit holds after its text."""
    rows = COMPLETIONS[: len(rewards)]
    p, old, ref, entropy, end = (_table(rows, field) for field in Drawn._fields[1:])
    logp = p.log().requires_grad_()
    old_logp = logp.detach() + old_shift * (old.log() - logp.detach())
    number: dict[str, int] = {}
    loss = score_group(
        algorithm.name,
        config=_config(algorithm),
        rewards=torch.tensor(rewards, dtype=torch.float64),
        tokens=pad_rows([[number.setdefault(drawn.text, len(number)) for drawn in row] for row in rows]),
        logp=logp,
        lengths=torch.tensor([len(row) for row in rows]),
        old_logp=old_logp,
        sampler_logp=old_logp,
        ref_logp=ref.log(),
        eos_logp=end.log(),
        entropy=entropy,
        truncated=torch.tensor([_cut_off(row) for row in rows]),
        seed=seed,
    )
    if not loss.value.requires_grad:
        raise UserError(f"{algorithm.name}: the loss does not depend on the log-probs, so nothing would be learned")
    (gradient,) = torch.autograd.grad(loss.value, logp)
    ratio = (logp.detach() - old_logp).exp()
    table = torch.stack((p, ratio, loss.selected.double(), loss.advantage, loss.weight, -gradient), dim=-1)
    return float(loss.value.detach()), table.tolist()


def _config(algorithm: Algorithm) -> dict[str, Any]:
    """A composition as keys of a recipe. All pieces, so that nothing needs to be looked up again."""

    def spec(piece: Piece) -> dict[str, Any]:
        return {"name": piece.name, **piece.config}

    pieces = algorithm.pieces.items()
    six = {kind: [spec(one) for one in p.parts] if isinstance(p, Chain) else spec(p) for kind, p in pieces}
    correction = algorithm.importance_correction
    return six if correction is None else {**six, CORRECTION: spec(correction)}


def _cut_off(completion: Sequence[Drawn]) -> bool:
    return len(completion) == LIMIT and completion[-1].text != END


def _table(rows: Sequence[Sequence[Drawn]], field: str) -> Tensor:
    """A field of ragged rows as float64 [G,T], ones on the right."""
    width = max(map(len, rows))
    padded = [[*(getattr(drawn, field) for drawn in row), *[1.0] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.float64)


def _credit(drawn: Drawn, values: Sequence[float]) -> TokenCredit:
    probability, ratio, selected, advantage, weight, push = values
    return TokenCredit(drawn.text, probability, ratio, bool(selected), advantage, weight, push + 0.0)
