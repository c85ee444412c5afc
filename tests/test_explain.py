"""`tessera explain`: what is computed is score_group's, what is printed is legible with colour and without."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

import tessera as package
from command import tessera
from tessera.algorithms import build, registered
from tessera.core.errors import UserError
from tessera.explain import COMPLETIONS, END, Explanation, explain, explain_source, read_method, read_rewards
from tessera.explain_view import NEEDS, render
from tessera.pieces import make
from tessera.pieces.registry import _PIECES

# Methods, and settings that change what is selected, weighed or clipped.
SPECS: list[dict[str, Any]] = [
    *({"name": name} for name in registered()),
    {"name": "s_grpo", "cutoff": 2, "probability": 0.4},
    {"name": "tr_grpo", "tau": 0.5, "clip_form": "ratio"},
    {"name": "grpo_lambda", "value_bound": True, "update": "weight", "trace": "both"},
    {"name": "grpo", "aggregation": "fixed_length", "max_tokens": 9, "clip_low": None},
    {"name": "grpo", "selection": ["complete", {"name": "high_entropy", "fraction": 0.5}]},
    {"name": "clip_cov", "ratio": 0.2},
]


def printed(found: Explanation, **console: Any) -> str:
    """What a console shows, without the spaces that fill its lines."""
    shown = Console(**{"width": 1000, "record": True, **console})
    with shown.capture() as captured:
        shown.print(render(found))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def column(name: str, count: int) -> torch.Tensor:
    """A number of the built-in tokens, [G,9], 0.5 on the right."""
    rows = [[getattr(drawn, name) for drawn in row] for row in COMPLETIONS[:count]]
    return torch.tensor([row + [0.5] * (9 - len(row)) for row in rows], dtype=torch.float64)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_numbers_are_those_of_score_group(spec: dict[str, Any]) -> None:
    rewards, shift = [1.0, 0.0, 0.25, 1.0, 0.0], 1.5
    words = sorted({drawn.text for row in COMPLETIONS for drawn in row})
    tokens = [[words.index(drawn.text) for drawn in row] for row in COMPLETIONS[:5]]
    logp = column("p", 5).log().requires_grad_()
    loss = package.score_group(
        spec["name"],
        config=spec,
        rewards=torch.tensor(rewards),
        tokens=torch.tensor([row + [0] * (9 - len(row)) for row in tokens]),
        logp=logp,
        lengths=torch.tensor([9, 9, 9, 2, 2]),
        old_logp=column("p", 5).log() - shift * (column("p", 5) / column("old", 5)).log(),
        ref_logp=column("ref", 5).log(),
        eos_logp=column("end", 5).log(),
        entropy=column("entropy", 5),
        truncated=torch.tensor([False, False, True, False, False]),
        seed=3,
    )
    loss.value.backward()  # type: ignore[no-untyped-call]
    found = explain(build(spec), rewards=rewards, seed=3, old_shift=shift)
    assert logp.grad is not None
    assert found.loss == pytest.approx(loss.value.item(), rel=1e-12)
    for i, completion in enumerate(found.completions):
        length = len(completion.tokens)
        assert [token.selected for token in completion.tokens] == loss.selected[i, :length].tolist()
        for key, values in (("advantage", loss.advantage), ("weight", loss.weight), ("push", -logp.grad)):
            shown = [getattr(token, key) for token in completion.tokens]
            assert shown == pytest.approx(values[i, :length].tolist(), rel=1e-12, abs=1e-15)


def test_grpo_by_hand() -> None:
    """Rewards 1, 0, 0, 1: mean 0.5, sample std 1/√3, A = ±0.5 / (1/√3 + 1e-4); push = ρ A / (4 |y|)."""
    found = explain(build("grpo"))
    advantage = 0.5 / (1 / math.sqrt(3) + 1e-4)
    first, second, _, fourth = found.completions
    assert [token.advantage for token in first.tokens] == pytest.approx([advantage] * 9)
    assert first.tokens[0].push == pytest.approx(0.62 / 0.60 * advantage / 36)
    assert fourth.tokens[1].push == pytest.approx(0.70 / 0.80 * advantage / 8)
    assert (first.tokens[7].ratio, first.tokens[7].push) == (pytest.approx(0.56 / 0.42), 0)  # 1.33 > 1.2, A > 0
    assert (second.tokens[7].ratio, second.tokens[7].push) == (pytest.approx(0.33 / 0.44), 0)  # 0.75 < 0.8, A < 0


def test_t_spmo_by_hand() -> None:
    """Rewards 1, 0, 0, 1. Six pairs differ in value: "7" (1/3 - 1/2) and "42" (1 - 1/2) at the start, "," (1/2 - 1/3)
    and "." (0 - 1/3) after "12", "42" and "32" (1 - 1/2, 0 - 1/2) after "so". Push = π A / 6, each pair once."""
    expected = {(0, 0): (0.62, -1 / 6), (3, 0): (0.22, 1 / 2), (0, 5): (0.50, 1 / 6), (2, 5): (0.20, -1 / 3),
                (0, 7): (0.56, 1 / 2), (1, 7): (0.33, -1 / 2)}  # fmt: skip
    found = explain(build("t_spmo"))
    pushed = {
        (i, t): token.push
        for i, row in enumerate(found.completions)
        for t, token in enumerate(row.tokens)
        if token.push
    }
    assert pushed == pytest.approx({at: p * advantage / 6 for at, (p, advantage) in expected.items()})


def test_the_shift_scales_how_far_the_policy_has_moved() -> None:
    at_once, twice = explain(build("grpo"), old_shift=0), explain(build("grpo"), old_shift=2)
    assert {token.ratio for token in at_once.tokens} == {1.0}
    assert all(token.push for token in at_once.tokens)  # no clip binds
    assert twice.tokens[7].ratio == pytest.approx((0.56 / 0.42) ** 2)


def test_the_seed_draws() -> None:
    algorithm = build({"name": "grpo", "selection": "random_fraction"})
    chosen = {seed: [token.selected for token in explain(algorithm, seed=seed).tokens] for seed in (0, 1)}
    assert chosen[0] != chosen[1]


def test_the_built_in_group_could_be_one() -> None:
    """At every place the drawn tokens share at most 1, entropy is at least that of what is known of the distribution,
    and completions that pass through it agree about it. Twice the shift leaves every old probability below 1."""
    places: dict[tuple[str, ...], dict[str, Any]] = defaultdict(dict)
    for row in COMPLETIONS:
        for t, drawn in enumerate(row):
            place = places[tuple(d.text for d in row[:t])]
            assert place.setdefault(drawn.text, drawn) == drawn
            assert drawn.p * (drawn.old / drawn.p) ** 2 < 1
            if drawn.text == END:
                assert drawn.end == drawn.old
    for place in places.values():
        assert len({(drawn.entropy, drawn.end) for drawn in place.values()}) == 1
        end = next(iter(place.values())).end
        for name in ("p", "old", "ref"):
            shares = [getattr(drawn, name) for drawn in place.values()]
            known = shares if END in place or name != "old" else [*shares, end]
            rest = 1 - sum(known)
            assert rest > 0
            if name == "old":
                least = -sum(share * math.log(share) for share in (*known, rest))
                assert least <= next(iter(place.values())).entropy <= least + 2


def test_there_is_what_makes_completions_differ() -> None:
    first, second, third, *_ = COMPLETIONS
    assert first[:7] == second[:7] and first[:5] == third[:5]
    assert [len(row) for row in COMPLETIONS] == [9, 9, 9, 2, 2, 9]
    assert [completion.truncated for completion in explain(build("grpo"), rewards=[0.0] * 6).completions] == [
        False, False, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("name", registered())
def test_every_method_is_said_and_shown(name: str) -> None:
    (found,) = explain_source(name)
    assert found.method.headline and found.method.source and found.method.symbols
    assert all(line.startswith("    ") for line in found.method.equation.splitlines())
    text = printed(found)
    for kind, piece in build(name).pieces.items():
        assert f"{kind:<13}{piece}\n             {piece.summary}\n" in text
    for need in build(name).needs:
        assert f"{need}: {NEEDS[need]}\n" in text
    assert text.count("\npush ") == 4 + 1  # and the legend
    assert "(exchanged)" not in text


def test_every_need_has_words() -> None:
    assert {need for pieces in _PIECES.values() for spec in pieces.values() for need in spec.needs} <= set(NEEDS)


def test_an_exchanged_piece_and_a_chain_are_marked() -> None:
    (found,) = explain_source("grpo", ["selection=[complete, {name: random_fraction, fraction: 0.5}]", "clip_low=0.1"])
    assert found.exchanged == ("selection",)
    text = printed(found)
    assert "selection    complete() then random_fraction(fraction=0.5)  (exchanged)\n" in text
    assert "surrogate    clipped_ratio(clip_low=0.1, clip_high=0.2)\n" in text
    assert (
        "themselves; none of those cut at the length limit. Then: Each policy token with"
        in found.algorithm.selection.summary
    )


def test_a_piece_is_summed_up_by_what_its_docstring_opens_with() -> None:
    assert make("weight", "uniform").summary == "Every selected token counts once."
    assert "in order: t < cutoff always; t >= cutoff with" in make("selection", "stochastic_prefix").summary


TABLES = """
1. reward 1              7     +     5     =    12     ,    so    42 <end>
probability π         0.62  0.97  0.98  0.96  0.90  0.50  0.80  0.56  0.93
advantage            -0.17     0     0     0     0 +0.17     0 +0.50     0
weight                1.00     ·     ·     ·     ·  1.00     ·  1.00     ·
push                 -17.2     ·     ·     ·     · +13.9     · +46.7     ·

2. reward 0              7     +     5     =    12     ,    so    32 <end>
probability π         0.62  0.97  0.98  0.96  0.90  0.50  0.80  0.33  0.92
advantage            -0.17     0     0     0     0 +0.17     0 -0.50     0
weight                   ·     ·     ·     ·     ·     ·     ·  1.00     ·
push                     ·     ·     ·     ·     ·     ·     · -27.5     ·

3. reward 0, cut off     7     +     5     =    12     .  Then    10     +
probability π         0.62  0.97  0.98  0.96  0.90  0.20  0.12  0.45  0.90
advantage            -0.17     0     0     0     0 -0.33     0     0     0
weight                   ·     ·     ·     ·     ·  1.00     ·     ·     ·
push                     ·     ·     ·     ·     · -11.1     ·     ·     ·

4. reward 1             42 <end>
probability π         0.22  0.70
advantage            +0.50     0
weight                1.00     ·
push                 +18.3     ·

loss -0.02306; of 29 tokens 6 are selected, and 6 carry gradient
push is -dLoss/dlogp in units of 0.001: above 0 (green) the token becomes likelier, below (red) less likely, \
bold where it is at least half of the strongest
0: advantage or weight is 0, or a clip binds; · (dim): not selected
"""


def test_plain_output_of_t_spmo() -> None:
    """The pushes are those of `test_t_spmo_by_hand`; the loss is minus the mean over six pairs of π A."""
    outcome = tessera("explain", "t_spmo")
    assert (outcome.code, outcome.err) == (0, "")
    assert "\x1b" not in outcome.out
    said, _, shown = outcome.out.partition("made up so that clips bind.\n")
    assert said.startswith(
        "T-SPMO, token-specific prefix matching optimisation: credit where completions of one prompt"
    )
    assert "    A(v|p) = mean R of completions through p·v - mean R of completions through p\n    L " in said
    assert [line.rstrip() for line in shown.splitlines()] == TABLES.splitlines()
    terms = (0.62 / -6, 0.22 / 2, 0.50 / 6, 0.20 / -3, 0.56 / 2, 0.33 / -2)
    assert -sum(terms) / 6 == pytest.approx(-0.02306, abs=5e-6)


def test_the_ratio_is_shown_where_the_method_has_one() -> None:
    assert "ratio ρ" in printed(explain(build("grpo")))
    assert "ratio ρ" not in printed(explain(build("s_grpo")))


def test_colours_say_the_same_as_signs() -> None:
    found = explain(build("t_spmo"))
    coloured = printed(found, force_terminal=True, color_system="standard", width=100)
    assert "\x1b[1;32m+46.7\x1b[0m" in coloured and "\x1b[1;32m   42\x1b[0m" in coloured  # the strongest, in bold
    assert "\x1b[31m-17.2\x1b[0m" in coloured and "\x1b[32m+13.9\x1b[0m" in coloured
    assert "\x1b[2m    ·\x1b[0m" in coloured and "\x1b[2m <end>" not in coloured
    bare = printed(found, force_terminal=True, color_system="standard", no_color=True)
    assert "\x1b[1m+46.7" in bare and "\x1b[32m" not in bare and "\x1b[31m" not in bare


def test_a_push_that_only_the_penalty_leaves_is_not_coloured() -> None:
    """TR-GRPO's weight inside the clip silences likely tokens with A > 0; the KL penalty of 0.001 remains."""
    text = printed(explain(build("tr_grpo")), force_terminal=True, color_system="standard")
    assert " +0.0 " in text and "32m +0.0" not in text


def test_equal_rewards_push_nothing() -> None:
    text = printed(explain(build("grpo"), rewards=(1.0, 1.0)))
    assert "loss +0; of 18 tokens 18 are selected, and 0 carry gradient" in text.replace("loss -0", "loss +0")
    assert "push                     0     0" in text


def test_settings_that_do_nothing_to_so_small_a_group_are_pointed_out() -> None:
    assert "selection stochastic_prefix leaves out nothing here" in printed(explain(build("s_grpo")))
    assert "weight covariance_clip is 1 everywhere here" in printed(explain(build("clip_cov")))
    assert " here:" not in printed(explain(build("grpo")))


def test_a_recipes_stages_are_explained(tmp_path: Path) -> None:
    (found,) = explain_source("demo", ["stages.rl.algorithm.cutoff=3"])
    assert (found.stage, found.algorithm) == ("rl", build({"name": "s_grpo", "beta": 0, "cutoff": 3}))
    rl = {"kind": "rl", "steps": 1}
    two = [{**rl, "name": "a", "algorithm": "grpo"}, {**rl, "name": "b", "algorithm": {"name": "grpo", "weight": MINE}}]
    (tmp_path / "mine.py").write_text("def half(scored):\n    return 0.5 + 0 * scored.logp_BT\n")
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({"task": "arithmetic", "stages": two}))
    outcome = tessera("explain", tmp_path / "two.yaml")
    assert [line for line in outcome.out.splitlines() if line.startswith("stage ")] == ["stage a", "stage b"]
    assert {token.weight for token in explain_source(str(tmp_path / "two.yaml"))[1].tokens} == {
        0.5
    }  # beside the recipe


MINE = "mine.py:half"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["gropo"], "unknown algorithm 'gropo' (did you mean 'grpo'?)"),
        (["recipes/gone.yaml"], "unknown recipe 'recipes/gone.yaml'"),
        (["grpo", "cutof=1"], "unknown key of algorithm grpo 'cutof'"),
        (["grpo", "cutoff"], "override 'cutoff' must be key=value"),
        (["grpo", "name=rloo"], "override name=rloo: the algorithm is the first argument, grpo"),
        (["gspo", "selection=random_fraction"], "gspo: surrogate sequence_ratio sums over every token of a completion"),
        (["grpo_lambda", "soft_clamp=tanh"], "soft_clamp would do nothing beside the other keys of algorithm grpo_lam"),
        (["grpo", "weight.tau=3"], "weight must be a name or a mapping with the key 'name', got {'tau': 3}"),
        (["grpo", "--rewards", "1,x"], "rewards must be numbers between commas, such as 1,0,0,1, got '1,x'"),
        (["grpo", "--rewards", "1,0,1,0,1,0,1"], "rewards: the built-in group has 6 completions, got 7 rewards"),
        (["grpo", "--rewards", "1"], "grpo's advantage 'group_normalized'"),
        (["grpo", "--rewards", "1,nan"], "rewards"),
        (["grpo", "--old-shift", "3"], "old_shift must lie in 0..2, got 3.0"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], line: str) -> None:
    outcome = tessera("explain", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {line}")
    assert outcome.err.count("\n") == 1


def test_a_recipe_without_an_rl_stage_has_nothing_to_explain(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("task: arithmetic\nstages: [{kind: sft, steps: 1}]\n")
    with pytest.raises(UserError, match="has no RL stage, and so no algorithm to explain"):
        explain_source(str(tmp_path / "sft.yaml"))


def test_a_loss_without_a_gradient_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from tessera.pieces import make\ndef still(scored):\n"
        "    terms = make('surrogate', 'clipped_ratio')(scored)\n"
        "    return terms._replace(objective_BT=terms.objective_BT.detach())\n"
    )
    with pytest.raises(UserError, match=r"^grpo: the loss does not depend on the log-probs"):
        explain_source("grpo", [f"surrogate={tmp_path / 'mine.py'}:still"])


def test_rewards_are_read() -> None:
    assert read_rewards("-1, 0.5,2") == (-1.0, 0.5, 2.0)


def test_a_docstring_is_taken_apart() -> None:
    text = "Head.\n\n    Paper: one,\n    two.\n\n        L = 1\n        M = 2\n\n    L is `l`.\n\n    Differs.\n    "
    method = read_method(text)
    assert (method.headline, method.source, method.symbols) == ("Head.", "Paper: one, two.", "L is `l`.")
    assert method.equation == "    L = 1\n    M = 2"
    assert read_method("Only a head.").equation == read_method("").headline == ""
