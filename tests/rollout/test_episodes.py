"""Episodes on engines, one that says what it is told and the real one: exact provenance, concurrency, failures."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scripted import Echo, Scripted, unreliable
from tessera.core.errors import UserError
from tessera.core.types import Message, Problem
from tessera.environments.settings import EnvironmentSettings, PythonSettings, ToolSettings
from tessera.environments.syntax import Frame
from tessera.environments.tool import Call, Tool
from tessera.policy.load import Policy
from tessera.rollout import toolbox as module
from tessera.rollout.collect import Collector, Start
from tessera.rollout.engine import Sampling
from tessera.rollout.episodes import Opening, Tooled
from tessera.rollout.hf import HFEngine
from tessera.tasks.in_memory import InMemoryTask
from tiny import tiny_policy

ASKED = EnvironmentSettings(tools=ToolSettings(python=PythonSettings()), turns=3, result_tokens=20, seconds=2)
PROBLEM = Problem("p", "2+2=", "4")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy(dtype=torch.float64)


def tooled(policy: Policy, tools: Sequence[Tool] = (), **more: Any) -> Tooled:
    return Tooled(policy, ASKED.model_copy(update=more), tools or [Echo()])


def collector(policy: Policy, engine: Any, tools: Tooled) -> Collector:
    task = InMemoryTask([{"prompt": "2+2=", "answer": 4}], reward_fn=lambda problem, text: float("4" in text))
    return Collector(engine, policy, task, tooled=tools)


def test_a_rollout_of_two_turns(policy: Policy) -> None:
    def script(request: Any, text: str) -> str:
        return "it is 4" if "<information>A4" in text else "hm <echo>a4</echo>"

    found = collector(policy, Scripted(policy, script), tooled(policy))
    (group,) = found.collect([Start(PROBLEM)], 2, Sampling(max_new_tokens=60), seed=1)
    one = group.rollouts[0]
    tokenizer: Any = policy.tokenizer
    assert tokenizer.decode(list(one.ids)) == "hm <echo>a4</echo>\n<information>A4</information>\nit is 4<eos>"
    assert tokenizer.decode([i for i, own in zip(one.ids, one.sampled, strict=True) if not own]) == (
        "\n<information>A4</information>\n"
    )
    assert one.text == "hm <echo>a4</echo>it is 4" and one.reward == 1 and one.finish_reason == "stop"
    assert [call.tool for turn in one.turns for call in turn.calls] == ["echo"]
    assert "You can call tools" in tokenizer.decode(list(one.prompt_ids))


def test_what_a_tool_says_is_not_graded(policy: Policy) -> None:
    script = lambda request, text: "no" if "<information>4" in text else "<echo>x</echo>"  # noqa: E731
    found = collector(policy, Scripted(policy, script), tooled(policy, [Echo(does=lambda text: "4")]))
    (group,) = found.collect([Start(PROBLEM)], 1, Sampling(max_new_tokens=60), seed=1)
    assert group.rollouts[0].reward == 0


class Letters:
    """A syntax in which the letters `stops` call a tool: random text of a tiny model holds many."""

    def __init__(self, stops: str) -> None:
        self.stops = tuple(stops)

    def calls(self, text: str) -> list[Call]:
        return [Call("echo", {"text": text[-3:] or "-"})] if text.endswith(self.stops) else []

    def frame(self, ended: bool) -> Frame:
        return Frame("[", "|", "]")

    def introduction(self) -> str:
        return "Call with letters."


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["aeiou", "xyz019 ", "".join(map(chr, range(32, 127)))]))
def test_the_ids_are_what_the_real_model_saw_and_no_tool_token_is_scored(
    policy: Policy, seed: int, letters: str
) -> None:
    """The log-prob of every sampled token is that of a fresh pass over all ids before it, tools' included."""
    tools = tooled(policy, turns=4)
    tools.syntax = Letters(letters)
    found = collector(policy, HFEngine(policy, 3), tools)
    (group,) = found.collect([Start(PROBLEM)], 4, Sampling(max_new_tokens=25), seed=seed)
    for rollout in group.rollouts:
        ids = torch.tensor([rollout.prompt_ids + rollout.ids])
        with torch.no_grad():
            logp_TV = policy.model(ids).logits[0].log_softmax(-1)
        for t, (token, own, logp) in enumerate(zip(rollout.ids, rollout.sampled, rollout.logprobs, strict=True)):
            if not own:
                assert logp is None
            else:
                assert logp == pytest.approx(float(logp_TV[len(rollout.prompt_ids) + t - 1, token]), abs=1e-6)
        by_tools = {t for turn in rollout.turns for t in range(turn.start, turn.end)}
        assert by_tools == {t for t, own in enumerate(rollout.sampled) if not own}
        assert len(rollout.turns) <= 4 and rollout.written <= 25
        assert len(rollout.prompt_ids + rollout.ids) <= len(rollout.prompt_ids) + tools.length(25)


def test_an_episode_is_the_same_alone_and_among_others(policy: Policy) -> None:
    tools = tooled(policy)
    tools.syntax = Letters("aeiou019")
    openings = [Opening((1, 40 + n % 3), (), (), seed=n) for n in range(9)]
    sampling = Sampling(max_new_tokens=20)
    together = tools.run(HFEngine(policy, 4), openings, sampling, 20)
    alone = [tools.run(HFEngine(policy), [opening], sampling, 20)[0] for opening in openings]
    assert [(e.ids, e.sampled, e.finish_reason) for e in together] == [
        (e.ids, e.sampled, e.finish_reason) for e in alone
    ]
    assert any(e.turns for e in together)


def test_a_replay_goes_on_inside_an_episode(policy: Policy) -> None:
    tools = tooled(policy)
    tools.syntax = Letters("aeiou019")
    found = collector(policy, HFEngine(policy), tools)
    (group,) = found.collect([Start(PROBLEM)], 6, Sampling(max_new_tokens=20), seed=2)
    first = next(r for r in group.rollouts if r.turns and r.turns[0].end < len(r.ids))
    cut = first.turns[0].end + 1
    start = Start(PROBLEM, first.ids[:cut], first.sampled[:cut])
    (again,) = found.collect([start], 3, Sampling(max_new_tokens=20 - start.written), seed=3)
    assert again.prefix_sampled == first.sampled[:cut]
    for rollout in again.rollouts:
        assert rollout.prompt_ids == first.prompt_ids + first.ids[:cut]
        assert start.written + rollout.written <= 20 and 1 + len(rollout.turns) <= 3
        assert rollout.sampled[0]


def test_slow_tools_stall_nobody(policy: Policy) -> None:
    """One row's tool waits until every other row is done; were they to wait for it, nothing would end."""
    others = threading.Event()
    left = [7]

    def script(request: Any, text: str) -> str:
        if "</information>" not in text:
            return f"<echo>{request.key}</echo>"
        left[0] -= 1
        if not left[0]:
            others.set()
        return "4"

    def does(text: str) -> str:
        return str(others.wait(20)) if text == "0" else "ok"

    tools = tooled(policy, [Echo(does=does)], seconds=30)
    openings = [Opening((1, 40), (), (), n) for n in range(8)]
    episodes = tools.run(Scripted(policy, script, rows=2), openings, Sampling(max_new_tokens=60), 60)
    assert others.is_set() and all(e.finish_reason == "stop" and len(e.turns) == 1 for e in episodes)


def test_five_hundred_episodes_with_tools_that_fail_and_hang(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.1)

    def script(request: Any, text: str) -> str:
        turn = text.count("</information>")
        return "4" if turn == 3 else f"<echo>{request.key} {turn}</echo>"

    does = unreliable(seed=5, hang=1.5)
    tools = tooled(policy, [Echo(does=does)], seconds=0.4, at_once=64)
    openings = [Opening((1, 40), (), (), n) for n in range(500)]
    began = time.monotonic()
    episodes = tools.run(Scripted(policy, script, rows=32), openings, Sampling(max_new_tokens=150), 150)
    assert time.monotonic() - began < 60
    assert all(e.finish_reason == "stop" and len(e.turns) == 3 for e in episodes)
    wanted: Counter[str | None] = Counter()
    for key in range(500):
        for turn in range(3):
            luck = random.Random(f"5 {key} {turn}").random()
            wanted[
                "timeout" if luck < 0.05 else "crash" if luck < 0.15 else "unavailable" if luck < 0.25 else None
            ] += 1
    assert Counter(call.failure for e in episodes for turn in e.turns for call in turn.calls) == wanted
    assert wanted["timeout"] > 40 and wanted["crash"] + wanted["unavailable"] > 200


def test_the_word_on_tools_goes_before_the_prompt(policy: Policy) -> None:
    tools = tooled(policy)
    chat = Problem("c", (Message("system", "Be kind."), Message("user", "Hi")), "")
    said = tools.syntax.introduction()
    assert tools.introduced(chat).prompt == (Message("system", f"Be kind.\n\n{said}"), Message("user", "Hi"))
    assert tools.introduced(replace(chat, prompt=chat.prompt[1:])).prompt[0] == Message("system", said)  # type: ignore[arg-type]
    assert tools.introduced(PROBLEM).prompt == f"{said}\n\n2+2="
    assert tooled(policy, introduce=False).introduced(chat) is chat


def test_the_text_of_a_special_token_in_a_result_is_text(policy: Policy) -> None:
    words = tooled(policy).words
    assert 2 in words.encode("<eos>", True) and 2 not in words.encode("<eos>", False)
    assert words.decode(words.encode("<eos>", False)) == "<eos>"


def test_an_episode_that_is_too_old_ends_with_its_turn(policy: Policy) -> None:
    tools = tooled(policy, [Echo(does=lambda text: time.sleep(0.3) or "late")], episode_seconds=0.2)  # type: ignore[func-returns-value]
    script = lambda request, text: "<echo>x</echo>"  # noqa: E731
    (episode,) = tools.run(Scripted(policy, script), [Opening((1, 40), (), (), 0)], Sampling(max_new_tokens=90), 90)
    assert episode.finish_reason == "length" and len(episode.turns) == 1
    assert tools.words.decode(episode.ids).endswith("</information>\n<echo>x</echo>")


@pytest.mark.parametrize(("syntax", "mark"), [("tags", "</echo>"), ("template", "<tool_call>")])
def test_a_tokenizer_that_hides_calls_is_refused(syntax: str, mark: str) -> None:
    """Special tokens are no part of what a turn says; were a tag one of them, tools would be there in vain."""
    policy = tiny_policy()
    policy.tokenizer.add_special_tokens({"additional_special_tokens": [mark]}, replace_extra_special_tokens=False)
    with pytest.raises(UserError, match=f"leaves {mark} out of the text"):
        tooled(policy, syntax=syntax)


def test_the_template_is_told_between_turns_what_it_is_told_in_prompts(policy: Policy) -> None:
    """As when a model is to answer without thinking: each of its turns begins as its first one does."""
    tools = Tooled(policy, ASKED.model_copy(update={"syntax": "template"}), [Echo()], {"thinking": False})
    assert tools.syntax.frame(ended=True).behind.endswith("<|im_start|>assistant\n[no thinking]")
    plain = tooled(policy, syntax="template").syntax.frame(ended=True)
    assert plain.behind.endswith("<|im_start|>assistant\n")
