"""vLLM in the trainer's process as a backend, on the trainer's device (docs/vllm.md)."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.core.errors import UserError
from tessera.policy.load import ModelConfig
from tessera.policy.sources import locate
from tessera.rollout.engine import Feed, Request, Sampling
from tessera.rollout.served import Put, Sampled, SleepLevel

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes for its max_lora_rank


class VLLMLocal:
    """See Backend. The model named by `model` is loaded a second time, by vLLM, for adapters of `rank`."""

    apart = False

    def __init__(
        self,
        model: ModelConfig,
        *,
        rank: int,
        max_rows: int,
        sleeps: bool,
        gpu_memory_utilization: float,
        max_model_len: int | None,
    ) -> None:
        try:
            import vllm
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise UserError(
                f"engine.kind vllm needs the vllm package ({error}): pip install 'tessera-rl[vllm]'"
            ) from None
        self.name = "vLLM"
        self.max_rows = max_rows
        self._vllm: Any = vllm
        self._request: Any = LoRARequest
        self._adapters: dict[str, Any] = {}
        self._loads = 0
        try:
            self._llm: Any = vllm.LLM(
                model=_folder(model),
                revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                dtype=model.dtype,
                enable_lora=True,
                max_loras=1,
                max_lora_rank=_allowed(rank),
                max_num_seqs=max_rows,
                max_model_len=max_model_len,
                gpu_memory_utilization=gpu_memory_utilization,
                enable_sleep_mode=sleeps,
                logprobs_mode="processed_logprobs",
                generation_config="vllm",  # not the model's own, where many cut the distribution
            )
        except (ValueError, RuntimeError) as error:  # too little memory, a model or device that it does not know
            raise UserError(f"vLLM does not start: {' '.join(str(error).split())[:300]}") from error
        self.context_length = int(self._llm.llm_engine.model_config.max_model_len)

    def close(self) -> None:
        """Let go of the model."""
        del self._llm
        gc.collect()

    def load(self, name: str, folder: Path) -> None:
        """See Backend."""
        self._loads += 1
        request = self._request(name, self._loads, str(folder))
        self._llm.llm_engine.add_lora(request)
        self._adapters[name] = request

    def unload(self, name: str) -> None:
        """See Backend."""
        if (request := self._adapters.pop(name, None)) is not None:
            self._llm.llm_engine.remove_lora(request.lora_int_id)

    def adapters(self) -> Mapping[str, str]:
        """See Backend."""
        held = set(self._llm.llm_engine.list_loras())
        return {name: request.lora_path for name, request in self._adapters.items() if request.lora_int_id in held}

    def score(self, name: str | None, ids: Sequence[int]) -> list[float]:
        """See Backend."""
        asked = self._vllm.SamplingParams(max_tokens=1, temperature=1.0, prompt_logprobs=1)
        (found,) = self._generate([list(ids)], [asked], name)
        entries = found.prompt_logprobs or [None] * len(ids)
        return [_logprob(entry, token) for entry, token in zip(entries[1:], ids[1:], strict=True)]

    def serve(self, name: str, feed: Feed, sampling: Sampling, end_ids: Sequence[int], put: Put) -> None:
        """See Backend. vLLM takes a list at a time: what becomes ready meanwhile is in the next one."""
        while requests := feed.take(self.max_rows, wait=True):
            asked = [self._params(request, sampling, end_ids) for request in requests]
            found = self._generate([list(request.prompt_ids) for request in requests], asked, name)
            for request, row in zip(requests, found, strict=True):
                put(request, _sampled(row))

    def sleep(self, level: SleepLevel) -> None:
        """See Backend."""
        self._llm.sleep(level=level)

    def wake(self, level: SleepLevel) -> None:
        """See Backend."""
        if level == 1:
            self._llm.wake_up()
            return
        self._llm.wake_up(tags=["weights"])
        self._llm.collective_rpc("reload_weights")
        self._llm.wake_up(tags=["kv_cache"])

    def _params(self, request: Request, sampling: Sampling, end_ids: Sequence[int]) -> Any:
        return self._vllm.SamplingParams(
            n=1,
            seed=request.seed,
            max_tokens=request.max_new_tokens or sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k or -1,
            top_p=sampling.top_p or 1.0,
            min_p=sampling.min_p or 0.0,
            stop=list(sampling.stop),
            stop_token_ids=list(end_ids),
            logprobs=1,
        )

    def _generate(self, prompts: Sequence[list[int]], asked: Sequence[Any], name: str | None) -> list[Any]:
        adapter = None if name is None else self._adapters[name]
        given = [{"prompt_token_ids": prompt} for prompt in prompts]
        return list(self._llm.generate(given, list(asked), lora_request=adapter, use_tqdm=False))


def _folder(model: ModelConfig) -> str:
    place = locate(model.name, model.revision)
    return model.name if place is None else str(place)


def _allowed(rank: int) -> int:
    for allowed in RANKS:
        if rank <= allowed:
            return allowed
    raise UserError(f"vLLM takes adapters of rank {RANKS[-1]} at most, model.lora.rank is {rank}")


def _sampled(found: Any) -> Sampled:
    row = found.outputs[0]
    ids = list(row.token_ids)
    logprobs = [_logprob(entry, token) for entry, token in zip(row.logprobs or (), ids, strict=False)]
    return Sampled(list(found.prompt_token_ids), ids, logprobs, row.finish_reason, row.stop_reason, row.text)


def _logprob(entry: Mapping[int, Any] | None, token: int) -> float:
    """NaN where there is none."""
    found = (entry or {}).get(token)
    return float("nan") if found is None else float(found.logprob)
