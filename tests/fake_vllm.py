"""The part of vLLM's Python interface that the colocated backend uses, over the tiny model: where there is no GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from tiny import tiny_model
from tiny_vllm import TinyVLLM, forget


class Logprob(NamedTuple):
    logprob: float


class SamplingParams(SimpleNamespace):
    """Keeps what it is given; a keyword that vLLM does not have is an error."""

    KNOWN = frozenset(
        [
            "n",
            "seed",
            "max_tokens",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "stop",
            "stop_token_ids",
            "logprobs",
            "prompt_logprobs",
        ]
    )

    def __init__(self, **given: Any) -> None:
        assert given.keys() <= self.KNOWN, given.keys() - self.KNOWN
        super().__init__(**given)


class LoRARequest(NamedTuple):
    lora_name: str
    lora_int_id: int
    lora_path: str


class FakeEngine:
    """vLLM's engine: adapters by number."""

    def __init__(self, tiny: TinyVLLM) -> None:
        self.tiny = tiny
        self.loaded: dict[int, str] = {}
        self.model_config = SimpleNamespace(max_model_len=tiny.context)

    def add_lora(self, request: LoRARequest) -> bool:
        assert request.lora_int_id not in self.loaded
        status, text = self.tiny.load(request.lora_name, request.lora_path)
        if status != 200:
            raise ValueError(text)
        self.loaded[request.lora_int_id] = request.lora_name
        return True

    def remove_lora(self, number: int) -> bool:
        self.tiny.unload(self.loaded.pop(number))
        return True

    def list_loras(self) -> set[int]:
        return set(self.loaded)


def module(tiny: TinyVLLM, calls: list[Any]) -> dict[str, ModuleType]:
    """Entries of sys.modules. What `LLM` was made with, and its sleeps, are noted in `calls`."""

    class LLM:
        def __init__(self, **options: Any) -> None:
            if options["gpu_memory_utilization"] > 0.9:
                raise ValueError("Free memory on device is less than\n desired GPU memory utilization")
            calls.append(options)
            self.llm_engine = FakeEngine(tiny)

        def generate(
            self, prompts: Sequence[Mapping[str, Any]], params: Sequence[SamplingParams], **options: Any
        ) -> list[Any]:
            assert options.keys() == {"lora_request", "use_tqdm"} and not tiny.sleeping
            adapter = options["lora_request"]
            name = "tiny-base" if adapter is None else self.llm_engine.loaded[adapter.lora_int_id]
            both = zip(prompts, params, strict=True)
            return [self._row(name, list(prompt["prompt_token_ids"]), asked) for prompt, asked in both]

        def _row(self, name: str, prompt: list[int], asked: SamplingParams) -> Any:
            choice = tiny.complete({"model": name, "prompt": prompt, **vars(asked)})
            ids, of, given = choice["token_ids"], choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]
            row = SimpleNamespace(
                token_ids=ids,
                text=choice["text"],
                logprobs=[{101: Logprob(-9.0), int(i[9:]): Logprob(p)} for i, p in zip(of, given, strict=True)],
                finish_reason=choice["finish_reason"],
                stop_reason=choice["stop_reason"],
            )
            said = [
                entry and {int(i): Logprob(e["logprob"]) for i, e in entry.items()}
                for entry in choice["prompt_logprobs"] or ()
            ]
            return SimpleNamespace(prompt_token_ids=prompt, outputs=[row], prompt_logprobs=said)

        def sleep(self, level: int) -> None:
            calls.append(("sleep", level))
            tiny.sleeping = level
            if level == 2:
                forget(tiny.base)
                for policy in tiny.held.values():
                    forget(policy)

        def wake_up(self, tags: list[str] | None = None) -> None:
            calls.append(("wake_up", tags))
            if tags != ["weights"]:
                tiny.sleeping = 0

        def collective_rpc(self, method: str) -> None:
            calls.append(method)
            tiny.base.model.load_state_dict(tiny_model(tiny.seed).state_dict())

    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.__dict__.update(LLM=LLM, SamplingParams=SamplingParams, lora=lora)
    request.__dict__.update(LoRARequest=LoRARequest)
    return {"vllm": vllm, "vllm.lora": lora, "vllm.lora.request": request}
