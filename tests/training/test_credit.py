"""Groups as they are kept, token by token: what training made of each, which are kept, and what a token's text is."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from runs import completions_of, groups_of, rl, rows_of, run, sft, without_times
from tessera.training.credit import keeps, token_texts
from tessera.training.settings import ReportSettings
from tiny import SPECIALS


def test_the_steps_kept_are_the_first_the_last_and_even_between() -> None:
    def kept(steps: int, of: int) -> list[int]:
        return [step for step in range(1, of + 1) if keeps(ReportSettings(steps=steps), step, of)]

    assert kept(3, 9) == [1, 5, 9]
    assert kept(4, 10) == [1, 4, 7, 10]
    assert kept(40, 3) == [1, 2, 3]
    assert kept(1, 5) == [1]
    assert kept(0, 5) == []
    assert not keeps(ReportSettings(groups=0), 1, 5)


@given(st.integers(1, 60), st.integers(1, 300))
def test_no_more_steps_are_kept_than_asked_for(steps: int, of: int) -> None:
    kept = [step for step in range(1, of + 1) if keeps(ReportSettings(steps=steps), step, of)]
    assert len(kept) == min(steps, of)
    assert kept[0] == 1 and (steps == 1 or kept[-1] == of)


def test_the_push_of_a_token_is_minus_the_slope_of_the_loss(tmp_path: Path) -> None:
    run(tmp_path, rl("grpo", steps=1, prompts_per_step=2))
    for row in groups_of(tmp_path):
        for rollout in row["rollouts"]:
            # the loss is -(1 / 12 rows) sum_i (1 / len_i) sum_t A ratio, and every ratio is 1 in the first update
            by_hand = [a / (12 * len(rollout["ids"])) for a in rollout["advantage"]]
            assert rollout["push"] == pytest.approx(by_hand, rel=1e-4)
            assert rollout["new"] == rollout["old"]
            assert rollout["sampler"] == pytest.approx(rollout["old"], abs=2e-3)
            assert rollout["ref"] == [None] * len(rollout["ids"])
            assert all(0 < e < math.log(102) for e in rollout["entropy"])


def test_after_inner_updates_the_numbers_are_those_of_the_last(tmp_path: Path) -> None:
    algorithm = {"name": "grpo", "clip_low": 0.999, "clip_high": 100.0, "beta": 0.04}
    run(tmp_path, rl(algorithm, steps=1, updates_per_rollout=2, optimizer={"lr": 1e-2}))
    (row,) = groups_of(tmp_path)
    moved = 0.0
    for rollout in row["rollouts"]:
        for a, new, old, ref, push in zip(
            *(rollout[k] for k in ("advantage", "new", "old", "ref", "push")), strict=True
        ):
            assert ref == pytest.approx(old, abs=1e-4)  # the reference is the policy at the start of the stage
            # d/dlogp of A ratio - beta (e^d - d - 1), d = ref - logp: A ratio + beta (e^d - 1)
            slope = a * math.exp(new - old) + 0.04 * math.expm1(ref - new)
            assert push == pytest.approx(slope / (6 * len(rollout["ids"])), rel=2e-3, abs=1e-6)
            moved = max(moved, abs(new - old))
    assert moved > 0.01


def test_a_row_says_what_was_asked_and_answered(tmp_path: Path) -> None:
    run(tmp_path, rl("s_grpo", steps=2, prompts_per_step=3), report={"groups": 3})
    found, told = groups_of(tmp_path), completions_of(tmp_path)
    assert [(r["step"], r["stage"], r["group"], r["groups"], r["replay"]) for r in found] == [
        (step, "rl", g, 3, False) for step in (1, 2) for g in range(3)
    ]
    flat = [rollout for row in found for rollout in row["rollouts"]]
    assert [r["reward"] for r in flat] == [r["reward"] for r in told]
    assert [r["finish_reason"] for r in flat] == [r["finish_reason"] for r in told]
    for row, first in zip(found, told[::6], strict=True):
        assert (row["problem_id"], row["prompt"]) == (first["problem_id"], first["prompt"])
    for rollout, row in zip(flat, told, strict=True):
        assert re.sub("|".join(map(re.escape, SPECIALS)), "", "".join(rollout["texts"])) == row["text"]
        assert rollout["sampled"] == [1] * row["tokens"]


def test_where_nothing_was_scored_there_is_no_number(tmp_path: Path) -> None:
    run(tmp_path, rl("t_spmo", steps=1))
    (row,) = groups_of(tmp_path)
    unscored = 0
    for rollout in row["rollouts"]:
        for a, on, *seen in zip(*(rollout[k] for k in ("advantage", "selected", "new", "weight", "push")), strict=True):
            assert all((value is None) == (a == 0 or not on) for value in seen)
            unscored += a == 0
    assert unscored > 10


def test_groups_are_kept_whole_or_not_at_all_those_with_credit_first(tmp_path: Path) -> None:
    def reward(problem: Any, text: str) -> float:
        return 0.5 if problem.prompt < "1+1=" else float(len(text) % 2)

    stage = rl(steps=1, prompts_per_step=12, group_size=4)
    run(tmp_path / "two", stage, reward=reward)
    run(tmp_path / "small", stage, reward=reward, report={"tokens": 25})
    run(tmp_path / "none", stage, reward=reward, report={"tokens": 1})
    two, small = groups_of(tmp_path / "two"), groups_of(tmp_path / "small")
    assert len(two) == 2 and [r["group"] for r in two] == sorted(r["group"] for r in two)
    assert all(len({rollout["reward"] for rollout in r["rollouts"]}) > 1 for r in two)
    assert [len(r["rollouts"]) for r in small] == [4]  # 24 tokens at most: one fits, whole
    assert groups_of(tmp_path / "none") == []


def test_keeping_groups_changes_nothing(tmp_path: Path) -> None:
    stage = rl({"name": "cw_grpo"}, steps=3, prompts_per_step=2, updates_per_rollout=2)
    run(tmp_path / "kept", sft(), stage)
    run(tmp_path / "not", sft(), stage, report={"groups": 0})
    assert {row["step"] for row in groups_of(tmp_path / "kept")} == {4, 5, 6}
    assert not (tmp_path / "not" / "groups.jsonl").exists()
    assert without_times(rows_of(tmp_path / "kept")) == without_times(rows_of(tmp_path / "not"))
    saved = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("kept", "not")]
    assert saved[0] == saved[1]


def test_the_updates_of_a_replay_are_told_apart(tmp_path: Path) -> None:
    replay = {"failures": 1, "source": "step"}
    run(tmp_path, rl("t_spmo", steps=2, replay=replay), reward=lambda problem, text: float("a" in text) - 1)
    assert [row["replay"] for row in groups_of(tmp_path)] == [False, True] * 2


def byte_level() -> Tokenizer:
    """A token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@given(st.text(max_size=40))
def test_the_texts_of_tokens_make_the_whole_text(text: str) -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode(text).ids
    texts = token_texts(ids, tokenizer.decode)
    assert len(texts) == len(ids)
    assert "".join(texts) == text
    # of the bytes of a character all but the last have no text
    assert [t for t in texts if t] == list(text) or "\ufffd" in text


def test_bytes_that_are_no_character_are_shown_as_such_and_do_not_swallow_the_rest() -> None:
    tokenizer = byte_level()
    (a,) = tokenizer.encode("a").ids
    lone = tokenizer.encode("é").ids[1]  # a continuation byte
    texts = token_texts([lone] * 9 + [a], tokenizer.decode)
    assert len(texts) == 10 and texts[-1].endswith("a")
    assert set("".join(texts)) == {"\ufffd", "a"}


def test_a_space_in_front_of_a_word_is_kept() -> None:
    vocab = {"▁": 0, "▁the": 1, "▁cat": 2, "s": 3}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.decoder = decoders.Metaspace()
    assert tokenizer.decode([2]) == "cat"  # alone, a tokenizer of this kind drops it
    assert token_texts([1, 2, 3, 2], tokenizer.decode) == ["the", " cat", "s", " cat"]
