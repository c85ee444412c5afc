from __future__ import annotations

import pytest
import torch

from tessera.core.errors import RunStopped, UserError
from tessera.policy.load import Policy
from tessera.rollout.probe import Probe
from tiny import tiny_policy
from tiny_vllm import scores


def move(policy: Policy, size: float, seed: int = 0) -> None:
    """An update of the adapter by a random step of this size."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.trainable_parameters():
            p.add_(size * torch.randn(p.shape, generator=noise))


def noisy(exact: list[float], size: float, seed: int) -> list[float]:
    """What a server in another precision would say."""
    noise = torch.randn(len(exact), generator=torch.Generator().manual_seed(seed)) * size
    return [logp + float(e) for logp, e in zip(exact, noise, strict=True)]


def probe(tolerance: float = 0.05) -> Probe:
    return Probe(tiny_policy(), tolerance, "the engine")


def test_the_text_is_long_enough_to_average_over() -> None:
    assert len(probe().ids) == 128
    assert len(set(probe().ids)) > 20


def test_scores_are_log_probs_at_the_temperature_asked_for() -> None:
    made = probe()
    assert made.score().tolist() == pytest.approx(scores(made.policy, made.ids), abs=1e-5)
    with torch.no_grad():
        logits = made.policy.model(input_ids=torch.tensor([made.ids[:2]])).logits[0, 0]
    # p(b | a) at temperature 2 = exp(l_b / 2) / sum exp(l / 2)
    by_hand = logits[made.ids[1]] / 2 - (logits / 2).exp().sum().log()
    assert made.score(made.ids[:2], 2.0).tolist() == pytest.approx([float(by_hand)], abs=1e-5)


def test_an_engine_that_follows_is_fine_however_little_moves() -> None:
    made = probe()
    made.base(scores(made.policy, made.ids))
    for step, size in enumerate([1e-1, 1e-3, 1e-6, 0.0, 1e-2]):
        move(made.policy, size, step)
        made.adapter(scores(made.policy, made.ids))


def test_another_base_model_is_refused() -> None:
    made = probe()
    with pytest.raises(UserError, match=r"the engine serves another model than tiny.*engine\.tolerance 0\.05"):
        made.base(scores(tiny_policy(seed=1), made.ids))


def test_the_base_is_scored_without_the_adapter() -> None:
    made = probe()
    base = scores(made.policy, made.ids)
    move(made.policy, 0.5)
    made.base(base)


def test_weights_far_from_the_trainers_stop_the_run() -> None:
    made = probe()
    base = scores(made.policy, made.ids)
    made.base(base)
    move(made.policy, 0.5)
    with pytest.raises(RunStopped, match="the engine does not sample from the trainer's weights"):
        made.adapter(base)


def test_a_stale_adapter_within_the_tolerance_is_found_by_its_standing_still() -> None:
    made = probe()
    made.base(scores(made.policy, made.ids))
    move(made.policy, 0.1)
    old = scores(made.policy, made.ids)
    made.adapter(old)
    move(made.policy, 1e-4, 1)
    assert max(abs(a - b) for a, b in zip(old, scores(made.policy, made.ids), strict=True)) < 0.05
    with pytest.raises(RunStopped, match=r"an earlier adapter, or another run's: the trainer's .* moved by"):
        made.adapter(old)


def test_an_adapter_that_moved_elsewhere_is_found() -> None:
    made, other = probe(), tiny_policy()
    made.base(scores(made.policy, made.ids))
    move(made.policy, 1e-3, 1)
    move(other, 1e-3, 2)
    with pytest.raises(RunStopped, match="another run's"):
        made.adapter(scores(other, made.ids))


def rough() -> tuple[Probe, list[float]]:
    """A probe that has followed a server with a noise of 0.01 over forty steps, and what that served last."""
    made = probe()
    made.base(noisy(scores(made.policy, made.ids), 0.01, 99))
    served: list[float] = []
    for step in range(40):  # a step moves the log-probs by 0.0027
        move(made.policy, 1e-3, 5)
        served = noisy(scores(made.policy, made.ids), 0.01, step)
        made.adapter(served)
    return made, served


def test_a_rough_server_that_stands_still_gives_the_same_numbers_and_is_found_at_once() -> None:
    made, served = rough()
    move(made.policy, 1e-4, 5)
    with pytest.raises(RunStopped, match="earlier adapter"):
        made.adapter(served)


def test_a_rough_server_whose_noise_changes_is_found_when_enough_has_moved() -> None:
    made, _ = rough()
    old = scores(made.policy, made.ids)
    with pytest.raises(RunStopped, match="earlier adapter"):
        for step in range(100, 125):  # the noise of a difference is 0.014: ten steps are twice that
            move(made.policy, 1e-3, 5)
            made.adapter(noisy(old, 0.01, step))
    assert step > 102  # not by chance, while it cannot be seen


def test_log_probs_that_are_no_numbers_or_too_few_stop_the_run() -> None:
    made = probe()
    exact = scores(made.policy, made.ids)
    with pytest.raises(RunStopped, match="differ by nan"):
        made.adapter([float("nan"), *exact[1:]])
    with pytest.raises(RunStopped, match="gave 126 log-probs of a text of 128 tokens"):
        made.adapter(exact[1:])


def test_weights_lost_in_sleep_are_found_though_the_trainer_has_moved_on() -> None:
    made = probe()
    made.awake([0.0] * 127)  # nothing was served before
    before = scores(made.policy, made.ids)
    made.adapter(before)
    move(made.policy, 0.5)
    made.awake(before)
    with pytest.raises(RunStopped, match="lost weights in its sleep"):
        made.awake([logp - 0.1 for logp in before])
