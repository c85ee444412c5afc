"""A vLLM server as a backend: its HTTP protocol, with token ids in and token ids out (docs/vllm.md)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tessera.core.errors import RunStopped, UserError
from tessera.rollout.engine import Feed, Request, Sampling
from tessera.rollout.served import Put, Sampled, SleepLevel

LOOK = 0.02  # seconds between looks at a feed, while there is room for more
QUICK = 30.0  # seconds for an answer that takes no computation
PAUSE = 0.5  # seconds before a request is sent again; doubled each time
KEY = "VLLM_API_KEY"  # what the server itself reads
LOADING = (
    "start it with --enable-lora, a --max-lora-rank of at least model.lora.rank, and "
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment"
)
SLEEPING = "engine.sleep needs --enable-sleep-mode, and VLLM_SERVER_DEV_MODE=1 in the server's environment"
# A server takes what a request leaves out from the model's generation config, where many models cut the distribution.
PLAIN = {"n": 1, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


class Unanswered(RunStopped):
    """The server could not be reached, or did not answer in time."""


class Refused(RunStopped):
    """The server answered with an error; `status` is its HTTP status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class VLLMServer:
    """See Backend. A request waits `timeout` seconds; one that can do no harm is sent up to `retries` times more.

    At most `max_rows` completions are asked for at a time.
    """

    apart = True

    def __init__(self, url: str, *, timeout: float, retries: int, max_rows: int) -> None:
        try:
            import httpx
        except ImportError:
            raise UserError("engine.kind vllm_server needs the httpx package: pip install httpx") from None
        key = os.environ.get(KEY)
        self.name = f"the vLLM server at {url}"
        self.timeout = timeout
        self.retries = retries
        self.max_rows = max_rows
        self._errors = httpx.TransportError
        self._closed = threading.Event()
        self._client = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=max_rows),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )
        try:
            self._base, self.context_length = self._model()
        except RunStopped as error:
            self.close()
            raise UserError(str(error)) from error

    def close(self) -> None:
        """Close the connections."""
        self._closed.set()
        self._client.close()

    def load(self, name: str, folder: Path) -> None:
        """See Backend."""
        try:
            self._send("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}, retries=0)
        except Refused as error:
            raise RunStopped(f"{error}; {LOADING}, and let it see {folder.parent} (engine.adapter_dir)") from error

    def unload(self, name: str) -> None:
        """See Backend."""
        try:
            self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name}, quick=True)
        except Refused as error:
            if error.status != 404:
                raise

    def adapters(self) -> Mapping[str, str]:
        """See Backend."""
        return {str(m["id"]): str(m.get("root")) for m in self._models() if m.get("parent") is not None}

    def score(self, name: str | None, ids: Sequence[int]) -> list[float]:
        """See Backend."""
        asked = {"prompt": list(ids), "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 1}
        choice = self._completions({"model": name or self._base, **PLAIN, **asked})
        found = choice.get("prompt_logprobs") or []
        if len(found) != len(ids):
            raise Unanswered(f"{self.name} gives no prompt_logprobs, which the check of its weights needs")
        return [_logprob(entry, token) for entry, token in zip(found[1:], ids[1:], strict=True)]

    def serve(self, name: str, feed: Feed, sampling: Sampling, end_ids: Sequence[int], put: Put) -> None:
        """See Backend. A server that is gone stops the run: its rows have not failed for a reason of their own."""
        common = {"model": name, **PLAIN, **_sampling(sampling), "stop_token_ids": list(end_ids)}
        pool = ThreadPoolExecutor(min(self.max_rows, feed.size), "tessera-vllm")
        flying: dict[Future[Sampled], Request] = {}
        try:
            while True:
                free = self.max_rows - len(flying)
                fresh = feed.take(free, wait=not flying) if free else []
                flying.update({pool.submit(self._row, common, request): request for request in fresh})
                if not flying:
                    break
                ended, _ = wait(flying, LOOK if free else None, FIRST_COMPLETED)
                for future in ended:
                    if (row := future.result()).failure is not None:
                        self._send("GET", "/health", quick=True)
                    put(flying.pop(future), row)
        finally:  # after an interruption, say, what has not been sent need not be
            pool.shutdown(wait=False, cancel_futures=True)

    def sleep(self, level: SleepLevel) -> None:
        """See Backend."""
        self._dev(f"/sleep?level={level}")

    def wake(self, level: SleepLevel) -> None:
        """See Backend."""
        if level == 1:
            self._dev("/wake_up")
            return
        self._dev("/wake_up?tags=weights")
        self._dev("/collective_rpc", {"method": "reload_weights"})
        self._dev("/wake_up?tags=kv_cache")

    def _dev(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        try:
            self._send("POST", path, body)
        except Refused as error:
            raise RunStopped(f"{error}; {SLEEPING}") from error

    def _models(self) -> list[dict[str, Any]]:
        return list(self._json("GET", "/v1/models", quick=True).get("data", ()))

    def _model(self) -> tuple[str, int]:
        """Name and context of the base model."""
        for model in self._models():
            if model.get("parent") is None and model.get("max_model_len"):
                return str(model["id"]), int(model["max_model_len"])
        raise Unanswered(f"{self.name} lists no model with a max_model_len at /v1/models: it is no vLLM server")

    def _row(self, common: Mapping[str, Any], request: Request) -> Sampled:
        try:
            limit = {"max_tokens": request.max_new_tokens or common["max_tokens"]}
            choice = self._completions({**common, "prompt": list(request.prompt_ids), "seed": request.seed, **limit})
        except (Unanswered, Refused) as error:
            return Sampled(failure=str(error))
        return _sampled(choice)

    def _completions(self, body: Mapping[str, Any]) -> dict[str, Any]:
        choices = self._json("POST", "/v1/completions", body).get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise Unanswered(f"{self.name} answers /v1/completions without choices")
        return choices[0]

    def _json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, quick: bool = False
    ) -> dict[str, Any]:
        try:
            found = self._send(method, path, body, quick=quick).json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Unanswered(f"{self.name} answers {path} with something else than JSON: it is no vLLM server")
        return found

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        retries: int | None = None,
        quick: bool = False,
    ) -> Any:
        """The response; Unanswered or Refused where there is none, or an error, after `retries`."""
        left, pause = self.retries if retries is None else retries, PAUSE
        seconds = min(self.timeout, QUICK) if quick else self.timeout
        while True:
            try:
                response = self._client.request(method, path, json=body, timeout=seconds)
                error: RunStopped | None = self._refusal(path, response)
            except self._errors as problem:
                error = Unanswered(f"{self.name} does not answer {path}: {_one_line(problem)}")
            if error is None:
                return response
            if left == 0 or self._closed.is_set() or (isinstance(error, Refused) and error.status < 500):
                raise error
            left, pause = left - 1, 2 * pause
            time.sleep(pause / 2)

    def _refusal(self, path: str, response: Any) -> Refused | None:
        if response.is_success:
            return None
        return Refused(f"{self.name} refuses {path}: {_message(response)}", response.status_code)


def _sampling(sampling: Sampling) -> dict[str, Any]:
    return {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k or -1,
        "top_p": sampling.top_p or 1.0,
        "min_p": sampling.min_p or 0.0,
        "stop": list(sampling.stop),
        "logprobs": 1,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def _sampled(choice: Mapping[str, Any]) -> Sampled:
    """A row; ids, their log-probs and the tokens that these are said to be of have to agree."""
    ids, prompt_ids, given = choice.get("token_ids"), choice.get("prompt_token_ids"), choice.get("logprobs") or {}
    if ids is None or prompt_ids is None:
        return Sampled(failure="there are no token_ids in the answer: vLLM 0.11 or newer is needed")
    if given.get("tokens") != [f"token_id:{i}" for i in ids]:
        return Sampled(failure="log-probs are of other tokens than the ids")
    logprobs = [float("nan") if logp is None else float(logp) for logp in given.get("token_logprobs") or ()]
    return Sampled(
        prompt_ids, ids, logprobs, choice.get("finish_reason"), choice.get("stop_reason"), str(choice.get("text", ""))
    )


def _logprob(entry: Mapping[str, Any] | None, token: int) -> float:
    """NaN where the server gave none."""
    found = (entry or {}).get(str(token)) or {}
    logp = found.get("logprob")
    return float("nan") if logp is None else float(logp)


def _message(response: Any) -> str:
    """What the server says of an error, in one line."""
    try:
        said = response.json()
    except ValueError:
        said = response.text
    if isinstance(said, dict):
        inner = said.get("error", said)
        said = inner.get("message", inner) if isinstance(inner, dict) else inner
    return f"{' '.join(str(said).split())[:300]} (HTTP {response.status_code})"


def _one_line(problem: Exception) -> str:
    return " ".join(str(problem).split()) or type(problem).__name__
