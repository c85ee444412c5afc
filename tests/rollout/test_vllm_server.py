"""The protocol, against a real HTTP server (tests/tiny_vllm.py): what is sent, what is taken, what is refused."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tessera.core.errors import RunStopped, UserError
from tessera.rollout import vllm_server
from tessera.rollout.engine import Listed, Request, Sampling
from tessera.rollout.vllm_server import VLLMServer
from tiny_vllm import TinyVLLM, scores, serving

PROMPT = tuple(range(20, 40))


@pytest.fixture
def tiny() -> TinyVLLM:
    return TinyVLLM()


@pytest.fixture
def server(tiny: TinyVLLM, monkeypatch: pytest.MonkeyPatch) -> Iterator[VLLMServer]:
    monkeypatch.setattr(vllm_server, "PAUSE", 0.001)
    with serving(tiny) as url:
        made = VLLMServer(url, timeout=60.0, retries=2, max_rows=8)
        yield made
        made.close()


def ask(server: VLLMServer, count: int = 1, **sampling: object) -> list[vllm_server.Sampled]:
    settings = Sampling.model_validate({"max_new_tokens": 5, **sampling})
    feed = Listed([Request(PROMPT, seed) for seed in range(count)], settings)
    done: dict[int, vllm_server.Sampled] = {}
    server.serve("tiny-base", feed, settings, [2, 4], lambda request, row: done.update({request.seed: row}))
    return [done[seed] for seed in range(count)]


def test_context_and_base_come_from_the_list_of_models(server: VLLMServer) -> None:
    assert server.context_length == 512
    assert server.adapters() == {}


def test_a_row_is_what_the_server_sampled(server: VLLMServer, tiny: TinyVLLM) -> None:
    (row,) = ask(server)
    assert row.failure is None and row.prompt_ids == list(PROMPT) and row.finish_reason == "length"
    assert row.logprobs == pytest.approx(scores(tiny.base, (*PROMPT, *row.ids))[-5:], abs=1e-4)
    assert row.text == tiny.base.tokenizer.decode(row.ids)


def test_the_request_leaves_no_default_to_the_server(server: VLLMServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, object]] = []
    request = server._client.request
    monkeypatch.setattr(
        server._client, "request", lambda m, p, json, **o: (sent.append(json), request(m, p, json=json, **o))[1]
    )
    ask(server, temperature=0.5, stop=("x",))
    assert sent == [
        {
            "model": "tiny-base",
            "prompt": list(PROMPT),
            "seed": 0,
            "n": 1,
            "max_tokens": 5,
            "temperature": 0.5,
            "top_k": -1,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop": ["x"],
            "stop_token_ids": [2, 4],
            "logprobs": 1,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
    ]


def test_prompts_are_scored_at_temperature_one(server: VLLMServer, tiny: TinyVLLM) -> None:
    assert server.score(None, PROMPT) == pytest.approx(scores(tiny.base, PROMPT), abs=1e-6)


def test_requests_go_out_together_and_come_back_in_order(server: VLLMServer, tiny: TinyVLLM) -> None:
    tiny.faults["slow"] = 50  # milliseconds
    rows = ask(server, count=8)
    assert tiny.most_at_once > 4
    assert [row.ids for row in rows] == [ask(server, count=n + 1)[n].ids for n in range(8)]
    assert len({tuple(row.ids) for row in rows}) > 1  # by their seeds


def test_a_request_may_have_a_limit_of_its_own(server: VLLMServer) -> None:
    settings, done = Sampling(max_new_tokens=5), []
    feed = Listed([Request(PROMPT, 0, max_new_tokens=2), Request(PROMPT, 0)], settings)
    server.serve("tiny-base", feed, settings, [2, 4], lambda request, row: done.append((request.key, row.ids)))
    (_, short), (_, whole) = sorted(done)
    assert len(whole) == 5 and short == whole[:2]


class Slow:
    """A feed whose second request is there 0.1 seconds after the first was taken, which takes longer."""

    size, length = 2, 30

    def __init__(self) -> None:
        self.began = 0.0
        self.waiting = [Request(PROMPT, 0), Request(PROMPT, 1)]

    def take(self, most: int, wait: bool) -> list[Request]:
        if not self.waiting or (len(self.waiting) == 1 and time.monotonic() < self.began + 0.1):
            return []
        self.began = time.monotonic()
        return [self.waiting.pop(0)]


def test_what_becomes_ready_meanwhile_is_asked_for_meanwhile(server: VLLMServer, tiny: TinyVLLM) -> None:
    tiny.faults["slow"] = 400  # milliseconds
    done: list[int] = []
    feed: Any = Slow()
    server.serve("tiny-base", feed, Sampling(max_new_tokens=2), [2], lambda request, _: done.append(request.seed))
    assert sorted(done) == [0, 1] and tiny.most_at_once == 2


@pytest.mark.parametrize("fault", ["reset", "HTTP 500"])
def test_a_request_that_failed_is_sent_again(server: VLLMServer, tiny: TinyVLLM, fault: str) -> None:
    undisturbed = ask(server)
    tiny.faults[fault] = 2
    assert ask(server) == undisturbed


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("reset", "does not answer /v1/completions: "),
        ("HTTP 500", r"refuses /v1/completions: EngineDeadError \(HTTP 500\)"),
    ],
)
def test_a_request_that_goes_on_failing_fails_alone(
    server: VLLMServer, tiny: TinyVLLM, fault: str, reason: str
) -> None:
    whole = ask(server, count=4)
    server.max_rows = 1  # one after another, so that the first takes all three
    tiny.faults[fault] = 3
    rows = ask(server, count=4)
    assert rows[1:] == whole[1:]
    assert re.search(reason, rows[0].failure or "")


def test_a_server_that_hangs_is_not_waited_for(tiny: TinyVLLM) -> None:
    tiny.faults["hang"] = 1
    with serving(tiny) as url:
        (row,) = ask(VLLMServer(url, timeout=1.0, retries=0, max_rows=1))
    assert row.failure is not None and "does not answer /v1/completions: timed out" in row.failure


def test_what_takes_no_computation_is_not_waited_for_as_long(tiny: TinyVLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "QUICK", 0.3)
    monkeypatch.setattr(tiny, "models", lambda: time.sleep(1.0))
    with serving(tiny) as url, pytest.raises(UserError, match="does not answer /v1/models: timed out"):
        VLLMServer(url, timeout=60.0, retries=0, max_rows=1)


def test_a_server_that_is_gone_stops_the_run(tiny: TinyVLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "PAUSE", 0.001)
    with serving(tiny) as url:
        made = VLLMServer(url, timeout=60.0, retries=1, max_rows=8)
    with pytest.raises(RunStopped, match=r"the vLLM server at http://127\.0\.0\.1:\d+ does not answer /health"):
        ask(made, count=3)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("other ids", "log-probs are of other tokens than the ids"),
        ("old protocol", "no token_ids in the answer: vLLM 0.11 or newer"),
    ],
)
def test_rows_that_cannot_be_read_say_why(server: VLLMServer, tiny: TinyVLLM, fault: str, reason: str) -> None:
    tiny.faults[fault] = 1
    (row,) = ask(server)
    assert row.failure is not None and reason in row.failure


def test_log_probs_that_are_missing_are_not_zero(server: VLLMServer, tiny: TinyVLLM) -> None:
    tiny.faults["NaN"] = 1
    (row,) = ask(server)
    assert row.logprobs[-1] != row.logprobs[-1]
    assert vllm_server._logprob(None, 3) != vllm_server._logprob(None, 3)
    assert vllm_server._logprob({"3": {"logprob": -1.5}, "4": {"logprob": -0.1}}, 3) == -1.5


def test_nobody_there_is_one_line() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"the vLLM server at {url} does not answer /v1/models"):
            VLLMServer(url, timeout=60.0, retries=0, max_rows=8)


def test_another_server_is_no_vllm_server(tiny: TinyVLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "models", lambda: {"data": [{"id": "gpt", "object": "model"}]})
    with serving(tiny) as url, pytest.raises(UserError, match="lists no model with a max_model_len"):
        VLLMServer(url, timeout=60.0, retries=0, max_rows=8)
    monkeypatch.setattr(tiny, "models", lambda: [1])
    with serving(tiny) as url, pytest.raises(UserError, match="something else than JSON: it is no vLLM server"):
        VLLMServer(url, timeout=60.0, retries=0, max_rows=8)


def test_the_key_comes_from_the_environment(tiny: TinyVLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.key = "secret"
    with serving(tiny) as url:
        monkeypatch.delenv("VLLM_API_KEY", raising=False)
        with pytest.raises(UserError, match=r"refuses /v1/models: Unauthorized \(HTTP 401\)"):
            VLLMServer(url, timeout=60.0, retries=0, max_rows=8)
        monkeypatch.setenv("VLLM_API_KEY", "secret")
        assert VLLMServer(f"{url}/v1", timeout=60.0, retries=0, max_rows=8).context_length == 512


def test_adapters_come_and_go(server: VLLMServer, adapter: Path) -> None:
    server.load("a", adapter)
    assert server.adapters() == {"a": str(adapter)}
    server.unload("a")
    server.unload("a")  # gone already: no error
    assert server.adapters() == {}


def test_a_server_that_loads_no_adapters_says_what_to_do(server: VLLMServer, tiny: TinyVLLM, adapter: Path) -> None:
    tiny.runtime_loading = False
    with pytest.raises(RunStopped, match=r"--enable-lora.*VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        server.load("a", adapter)
    tiny.runtime_loading, tiny.max_rank = True, 2
    with pytest.raises(RunStopped, match=r"LoRA rank 4 is greater than max_lora_rank 2.*--max-lora-rank"):
        server.load("a", adapter)
    with pytest.raises(RunStopped, match=r"No adapter found for /nowhere/x.*let it see /nowhere"):
        server.load("a", Path("/nowhere/x"))


def test_each_level_of_sleep_has_its_calls(server: VLLMServer, tiny: TinyVLLM) -> None:
    server.sleep(1)
    server.wake(1)
    server.sleep(2)
    server.wake(2)
    assert tiny.calls[1:] == [
        "/sleep?level=1",
        "/wake_up",
        "/sleep?level=2",
        "/wake_up?tags=weights",
        "/collective_rpc",
        "/wake_up?tags=kv_cache",
    ]
    tiny.dev_mode = False
    with pytest.raises(RunStopped, match="--enable-sleep-mode, and VLLM_SERVER_DEV_MODE=1"):
        server.sleep(1)


def test_a_message_of_the_server_is_one_line() -> None:
    class Response:
        status_code = 400
        text = "a\nb"

        def json(self) -> object:
            return json.loads(self.text)

    made = Response()
    assert vllm_server._message(made) == "a b (HTTP 400)"
    made.text = '{"error": {"message": "too\\n long"}}'
    assert vllm_server._message(made) == "too long (HTTP 400)"
    made.text = '{"detail": "Not Found"}'
    assert vllm_server._message(made) == "{'detail': 'Not Found'} (HTTP 400)"
