"""What is served is not trusted: every fault of a server is caught, or is one row's own. Over real HTTP."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tessera.core.errors import RunStopped, UserError
from tessera.policy.adapters import save_adapter
from tessera.policy.load import Policy
from tessera.rollout import vllm_server
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tessera.rollout.served import ServedEngine, SleepLevel
from tessera.rollout.vllm_server import VLLMServer
from tiny import tiny_policy
from tiny_vllm import ALWAYS, TinyVLLM, forget, serving

SAMPLING = Sampling(max_new_tokens=8, temperature=0.7)
REQUESTS = [Request((1, *range(20, 20 + n)), n) for n in range(3, 7)]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "PAUSE", 0.001)


@contextmanager
def engine_on(
    tiny: TinyVLLM, policy: Policy, sleep: SleepLevel | None = None, folder: Path | None = None
) -> Iterator[ServedEngine]:
    with serving(tiny) as url:
        backend = VLLMServer(url, timeout=60.0, retries=0, max_rows=1)
        with ServedEngine(policy, backend, tolerance=0.05, folder=folder, sleep=sleep) as engine:
            yield engine


def move(policy: Policy, size: float, seed: int = 0) -> None:
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.trainable_parameters():
            p.add_(size * torch.randn(p.shape, generator=noise))


def test_it_samples_what_the_trainers_own_model_samples(tmp_path: Path) -> None:
    tiny, policy = TinyVLLM(), tiny_policy()
    with engine_on(tiny, policy, folder=tmp_path) as engine:
        assert engine.context_length == 512
        for step in range(3):
            move(policy, 0.03, step)
            engine.sync()
            assert engine.fingerprint() == policy.fingerprint()
            done, own = engine.generate(REQUESTS, SAMPLING), HFEngine(policy).generate(REQUESTS, SAMPLING)
            assert [c.ids for c in done] == [c.ids for c in own]
            for served, trained in zip(done, own, strict=True):
                assert served.logprobs == pytest.approx(trained.logprobs, abs=1e-4)
            assert len(tiny.paths) == 1  # the one before is gone, on the server and on the disk
            assert len(list(tmp_path.rglob("adapter_model.safetensors"))) == 1
        assert engine.generate([], SAMPLING) == []
    assert tiny.paths == {} and list(tmp_path.iterdir()) == []


def test_an_adapter_that_has_not_changed_is_not_loaded_again_and_a_lost_one_is() -> None:
    tiny, policy = TinyVLLM(), tiny_policy()
    with engine_on(tiny, policy) as engine:
        engine.sync()
        assert sum("load_lora" in call for call in tiny.calls) == 1
        tiny.held.clear()  # the server was started anew
        tiny.paths.clear()
        assert engine.fingerprint() == "none"
        engine.sync()
        assert engine.fingerprint() == policy.fingerprint()


def test_another_model_is_refused_at_once() -> None:
    with (
        pytest.raises(UserError, match=r"the vLLM server at http.* serves another model than tiny"),
        engine_on(TinyVLLM(seed=1), tiny_policy()),
    ):
        pass


def test_a_server_that_serves_the_base_is_caught() -> None:
    tiny, policy = TinyVLLM(), tiny_policy()
    tiny.faults["base kept"] = ALWAYS
    with engine_on(tiny, policy) as engine:  # a fresh adapter changes nothing: it is the base
        move(policy, 1e-3)
        with pytest.raises(RunStopped, match="samples from an earlier adapter, or another run's"):
            engine.sync()
        move(policy, 0.5)
        with pytest.raises(RunStopped, match="does not sample from the trainer's weights"):
            engine.sync()


def test_a_server_that_serves_an_earlier_adapter_is_caught_after_the_smallest_update() -> None:
    tiny, policy = TinyVLLM(), tiny_policy()
    with engine_on(tiny, policy) as engine:
        move(policy, 0.05)
        engine.sync()
        tiny.faults["stale adapter"] = 1
        move(policy, 1e-4, 1)
        with pytest.raises(RunStopped, match="earlier adapter"):
            engine.sync()


def test_a_server_that_serves_another_runs_adapter_is_caught(tmp_path: Path) -> None:
    tiny, policy, other = TinyVLLM(), tiny_policy(), tiny_policy()
    move(other, 1e-3, 7)
    save_adapter(other.model, tmp_path / "other")  # type: ignore[arg-type]
    tiny.foreign = str(tmp_path / "other")
    with engine_on(tiny, policy) as engine:
        tiny.faults["foreign adapter"] = 1
        move(policy, 1e-3)
        with pytest.raises(RunStopped, match="another run's"):
            engine.sync()


def test_the_fingerprint_is_that_of_the_path_which_the_server_lists() -> None:
    tiny, policy = TinyVLLM(), tiny_policy()
    with engine_on(tiny, policy) as engine:
        tiny.faults["path as listed"] = 1
        move(policy, 0.01)
        engine.sync()
        assert engine.fingerprint() == "other" != policy.fingerprint()


@pytest.mark.parametrize("fault", ["temperature ignored", "raw log-probs"])
def test_log_probs_at_another_temperature_are_refused_at_once(fault: str) -> None:
    tiny = TinyVLLM()
    tiny.faults[fault] = ALWAYS
    with (
        pytest.raises(UserError, match=r"log-probs at the sampling temperature.*--logprobs-mode processed_logprobs"),
        engine_on(tiny, tiny_policy()),
    ):
        pass


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("NaN", "log-probs are not finite, or above 0"),
        ("prompt changed", "the prompt was changed: 4 tokens were sent, 5 were read"),
        ("aborted", "a completion ended for the reason 'abort'"),
        ("no end", "a completion ended for the reason 'stop' with token 50, which ends none here"),
        ("other ids", "log-probs are of other tokens than the ids"),
        ("reset", "does not answer /v1/completions"),
        ("HTTP 500", "EngineDeadError"),
    ],
)
def test_a_row_that_went_wrong_leaves_its_siblings_intact(
    fault: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = TinyVLLM()
    with engine_on(tiny, tiny_policy()) as engine:
        whole = engine.generate(REQUESTS, SAMPLING)
        tiny.faults[fault] = 1
        done = engine.generate(REQUESTS, SAMPLING)
        assert done[1:] == whole[1:]
        assert (done[0].finish_reason, done[0].ids) == ("error", ())
        assert done[0].error is not None and reason in done[0].error
        assert "1 of 4 completions failed; the first: " in caplog.text
        tiny.faults[fault] = 4
        with pytest.raises(RunStopped, match=f"every completion failed; the first error of .*{re.escape(reason)}"):
            engine.generate(REQUESTS, SAMPLING)


def test_a_text_that_is_not_that_of_the_ids_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    tiny = TinyVLLM()
    with engine_on(tiny, tiny_policy()) as engine:
        whole = engine.generate(REQUESTS, SAMPLING)
        tiny.faults["other text"] = 3
        with caplog.at_level(logging.WARNING):
            assert engine.generate(REQUESTS, SAMPLING) == whole  # the ids count
        assert caplog.text.count("writes the ids of a completion as 'something else'") == 1


def test_rows_end_with_stop_texts_and_end_tokens(caplog: pytest.LogCaptureFixture) -> None:
    tiny, policy = TinyVLLM(), replace(tiny_policy(), eos_ids=frozenset(range(6, 40)))
    tiny.base = replace(tiny.base, eos_ids=policy.eos_ids)
    with engine_on(tiny, tiny_policy()) as engine:
        (free,) = engine.generate(REQUESTS[:1], SAMPLING)
        stop = tiny.base.tokenizer.decode(free.ids[2:4])
        (ended,) = engine.generate(REQUESTS[:1], SAMPLING.model_copy(update={"stop": (stop,)}))
        assert (ended.ids, ended.finish_reason) == (free.ids[:4], "stop")
    assert not [record for record in caplog.records if record.name == "tessera"]


@pytest.mark.parametrize("level", [1, 2])
def test_it_sleeps_but_for_sampling_and_keeps_its_weights(level: SleepLevel) -> None:
    tiny, policy = TinyVLLM(), tiny_policy()
    tiny.sleeping = level  # as an earlier run left it
    with engine_on(tiny, policy, sleep=level) as engine:
        assert tiny.sleeping == level
        move(policy, 0.05)
        engine.sync()
        assert engine.fingerprint() == policy.fingerprint() and not tiny.sleeping
        done = engine.generate(REQUESTS, SAMPLING)
        own = HFEngine(policy).generate(REQUESTS, SAMPLING)
        assert tiny.sleeping == level
        move(policy, 0.05, 1)  # the trainer goes on meanwhile; nobody has synced
        again = engine.generate(REQUESTS, SAMPLING)
        assert [c.ids for c in done] == [c.ids for c in again] == [c.ids for c in own]
        assert tiny.sleeping == level
    assert tiny.paths == {}


def test_weights_that_sleep_has_lost_are_noticed() -> None:
    tiny, policy = TinyVLLM(), tiny_policy()
    with engine_on(tiny, policy, sleep=2) as engine:
        tiny.faults["weights lost"] = ALWAYS
        forget(tiny.base)
        tiny.newest = None
        for held in tiny.held.values():
            forget(held)
        tiny.faults["base kept"] = ALWAYS
        with pytest.raises(RunStopped, match="lost weights in its sleep"):
            engine.generate(REQUESTS, SAMPLING)


def test_completions_need_a_sync() -> None:
    tiny = TinyVLLM()
    with serving(tiny) as url:
        engine = ServedEngine(tiny_policy(), VLLMServer(url, timeout=60.0, retries=0, max_rows=1), tolerance=0.05)
        with pytest.raises(RunStopped, match="before its first sync"):
            engine.generate(REQUESTS, SAMPLING)
        engine.close()


def test_a_server_that_fails_to_let_go_ends_no_run(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    tiny = TinyVLLM()
    with engine_on(tiny, tiny_policy(), folder=tmp_path):
        tiny.runtime_loading = False
        tiny.key = "changed"
    assert "refuses /v1/unload_lora_adapter" in caplog.text
    assert list(tmp_path.iterdir()) == []
