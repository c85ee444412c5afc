"""A vLLM server of the tiny model: the protocol of vLLM's own over real HTTP, adapters loaded by peft from disk.

What a broken, stale or foreign server would do is switched on by name in `faults`, for so many requests.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch
from peft import PeftModel

from tessera.policy.load import Policy
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tiny import tiny_model, tiny_tokenizer

ALWAYS = 10**9


class TinyVLLM:
    """What the server holds: the base, and adapters by name, each on a model of its own."""

    def __init__(self, seed: int = 0, *, context: int = 512, max_rank: int = 16) -> None:
        self.seed = seed
        self.context = context
        self.max_rank = max_rank
        self.base = Policy.from_objects(tiny_model(seed), tiny_tokenizer(), name="tiny")
        self.held: dict[str, Policy] = {}
        self.paths: dict[str, str] = {}
        self.faults: Counter[str] = Counter()
        self.calls: list[str] = []
        self.completions = 0
        self.at_once = 0
        self.most_at_once = 0
        self.sleeping = 0
        self.runtime_loading = self.dev_mode = True
        self.key: str | None = None
        self.lock = threading.Lock()

    def fault(self, name: str) -> bool:
        """Whether this request has the fault, which is used up by one."""
        if self.faults[name] <= 0:
            return False
        self.faults[name] -= 1
        return True

    def models(self) -> dict[str, Any]:
        base = {"id": "tiny-base", "root": "/models/tiny", "parent": None, "max_model_len": self.context}
        adapters = [{"id": n, "root": p, "parent": "tiny-base", "max_model_len": None} for n, p in self.paths.items()]
        return {"object": "list", "data": [base, *adapters]}

    def load(self, name: str, path: str) -> tuple[int, str]:
        if name in self.held:
            return 400, f"The lora adapter '{name}' has already been loaded."
        read = path
        if self.fault("foreign adapter"):
            read = self.foreign
        if not (Path(read) / "adapter_config.json").is_file():
            return 404, f"Loading lora {name} failed: No adapter found for {path}"
        if (rank := json.loads((Path(read) / "adapter_config.json").read_text())["r"]) > self.max_rank:
            return 500, f"LoRA rank {rank} is greater than max_lora_rank {self.max_rank}."
        stale = self.fault("stale adapter")
        if not (stale and self.newest is not None):
            self.newest = PeftModel.from_pretrained(tiny_model(self.seed), read)
        self.held[name] = Policy.from_objects(self.newest, tiny_tokenizer(), name=name)
        self.paths[name] = path if not self.fault("path as listed") else "/models/other"
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    newest: Any = None
    foreign: str = ""

    def unload(self, name: str) -> tuple[int, str]:
        if name not in self.held:
            return 404, f"The lora adapter '{name}' cannot be found."
        del self.held[name], self.paths[name]
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    def policy(self, name: str) -> Policy:
        return self.base if name == "tiny-base" or self.faults["base kept"] else self.held[name]

    def complete(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The only choice of a completion, as vLLM writes it."""
        policy, prompt = self.policy(asked["model"]), tuple(asked["prompt"])
        temperature = 1.0 if self.faults["temperature ignored"] else asked["temperature"]
        sampling = Sampling(
            max_new_tokens=asked["max_tokens"], temperature=temperature, stop=tuple(asked.get("stop", ()))
        )
        (done,) = HFEngine(policy).generate([Request(prompt, asked.get("seed", 0))], sampling)
        ids, logprobs = list(done.ids), list(done.logprobs)
        if self.faults["raw log-probs"]:
            logprobs = scores(policy, (*prompt, *ids))[-len(ids) :]
        if self.fault("NaN"):
            logprobs[-1] = float("nan")
        ended = done.finish_reason == "stop" and ids[-1] in policy.eos_ids
        tokens = [f"token_id:{i}" for i in ids]
        text = policy.tokenizer.decode([i for i in ids if i not in policy.eos_ids], skip_special_tokens=True)
        stop = next((s for s in sampling.stop if s in text), None)
        choice = {
            "index": 0,
            "text": text.partition(stop)[0] if stop and not ended else text,
            "logprobs": {"token_logprobs": logprobs, "tokens": tokens, "top_logprobs": [], "text_offset": []},
            "finish_reason": done.finish_reason,
            "stop_reason": None if ended or done.finish_reason == "length" else stop,
            "token_ids": ids,
            "prompt_token_ids": list(prompt),
            "prompt_logprobs": None,
        }
        if asked.get("prompt_logprobs") is not None:
            pairs = zip(prompt[1:], scores(policy, prompt), strict=True)
            choice["prompt_logprobs"] = [None, *({str(i): {"logprob": p, "rank": 1}} for i, p in pairs)]
        if self.fault("other ids"):
            choice["token_ids"] = [ids[0] + 1, *ids[1:]]
        if self.fault("other text"):
            choice["text"] = "something else"
        if self.fault("prompt changed"):
            choice["prompt_token_ids"] = [1, *prompt]
        if self.fault("old protocol"):
            del choice["token_ids"], choice["prompt_token_ids"]
        if self.fault("aborted"):
            choice["finish_reason"] = "abort"
        if self.fault("no end"):
            choice["finish_reason"] = "stop"
            choice["token_ids"][-1], choice["logprobs"]["tokens"][-1] = 50, "token_id:50"
        return choice


def scores(policy: Policy, ids: tuple[int, ...]) -> list[float]:
    """Log-probs of `ids` after the first, written without any of the library's own scoring."""
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return [float(row.log_softmax(-1)[i]) for row, i in zip(logits, ids[1:], strict=True)]


class Handler(BaseHTTPRequestHandler):
    """The routes."""

    protocol_version = "HTTP/1.1"
    tiny: TinyVLLM

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._answer(json.loads(self.rfile.read(length) or b"{}"))

    def _answer(self, asked: dict[str, Any]) -> None:
        where, tiny = urlsplit(self.path), self.tiny
        tiny.calls.append(self.path)
        if tiny.faults["dead"]:
            return self._hang_up()
        if tiny.key and self.headers.get("Authorization") != f"Bearer {tiny.key}":
            return self._say(401, {"error": "Unauthorized"})
        if where.path == "/health":
            return self._say(200, None)
        if where.path == "/v1/models":
            return self._say(200, tiny.models())
        if where.path == "/v1/completions":
            return self._complete(asked)
        if where.path.endswith("_lora_adapter") and tiny.runtime_loading:
            with tiny.lock:
                loads = where.path == "/v1/load_lora_adapter"
                status, text = (
                    tiny.load(asked["lora_name"], asked["lora_path"]) if loads else tiny.unload(asked["lora_name"])
                )
            return self._say(status, text if status == 200 else {"error": {"message": text, "code": status}})
        if tiny.dev_mode and where.path in ("/sleep", "/wake_up", "/collective_rpc"):
            return self._dev(where.path, parse_qs(where.query), asked)
        return self._say(404, {"detail": "Not Found"})

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _dev(self, path: str, query: Mapping[str, list[str]], asked: Mapping[str, Any]) -> None:
        """Level 2 forgets all weights; `reload_weights` brings back the base's, and adapters stay lost."""
        tiny = self.tiny
        if path == "/sleep":
            tiny.sleeping = int(query["level"][0])
            if tiny.sleeping == 2:
                forget(tiny.base)
                for policy in tiny.held.values():
                    forget(policy)
        elif path == "/wake_up" and query.get("tags") != ["weights"]:
            tiny.sleeping = 0
        elif asked.get("method") == "reload_weights" and not tiny.faults["weights lost"]:
            tiny.base.model.load_state_dict(tiny_model(tiny.seed).state_dict())
        self._say(200, None)

    def _complete(self, asked: dict[str, Any]) -> None:
        tiny = self.tiny
        trains = asked.get("prompt_logprobs") is None
        if asked["model"] != "tiny-base" and asked["model"] not in tiny.held:
            return self._say(404, {"error": {"message": f"The model `{asked['model']}` does not exist."}})
        if tiny.sleeping:
            return self._say(500, {"error": {"message": "asleep"}})
        if trains and tiny.fault("reset"):
            return self._hang_up()
        if trains and tiny.fault("HTTP 500"):
            return self._say(500, {"error": {"message": "EngineDeadError"}})
        if trains and tiny.fault("hang"):
            time.sleep(1.5)
            return self._hang_up()
        with tiny.lock:
            tiny.at_once += 1
            tiny.most_at_once = max(tiny.most_at_once, tiny.at_once)
        if trains:
            tiny.completions += 1
            time.sleep(tiny.faults["slow"] / 1000)
        with tiny.lock:
            choice = tiny.complete(asked)
            tiny.at_once -= 1
        return self._say(200, {"object": "text_completion", "model": asked["model"], "choices": [choice]})

    def _say(self, status: int, content: Any) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def forget(policy: Policy) -> None:
    with torch.no_grad():
        for p in policy.model.parameters():
            p.zero_()


@contextmanager
def serving(tiny: TinyVLLM) -> Iterator[str]:
    """The URL at which `tiny` is served within the context."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"tiny": tiny}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    tiny.faults["dead"] = 0
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        tiny.faults["dead"] = ALWAYS  # connections that are kept open, too
        server.shutdown()
        server.server_close()
        thread.join()
