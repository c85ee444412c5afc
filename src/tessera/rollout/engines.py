"""The engines by name: their settings, and how one is opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tessera.core.errors import UserError
from tessera.policy.load import DTYPES, ModelConfig, Policy
from tessera.rollout.copied import CopyEngine
from tessera.rollout.engine import Engine
from tessera.rollout.hf import HFEngine
from tessera.rollout.served import Backend, ServedEngine, SleepLevel
from tessera.rollout.vllm_local import VLLMLocal
from tessera.rollout.vllm_server import VLLMServer


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InProcess(_Settings):
    """The trainer's own model samples, or with `dtype` a copy of it in lower precision."""

    kind: Literal["in_process"] = "in_process"
    dtype: Literal["bfloat16"] | None = None


class _Served(_Settings):
    adapter_dir: str | None = None
    tolerance: float = Field(0.1, gt=0)
    sleep: SleepLevel | None = None


class VLLMServerSettings(_Served):
    """A vLLM server at `url`, which reads adapters from `adapter_dir`."""

    kind: Literal["vllm_server"]
    url: str = Field("http://localhost:8000", pattern=r"^https?://[^/]")
    timeout: float = Field(600.0, gt=0)
    retries: int = Field(2, ge=0)


class VLLMSettings(_Served):
    """vLLM inside the trainer's process, on the same device."""

    kind: Literal["vllm"]
    gpu_memory_utilization: float = Field(0.3, gt=0, le=1)
    max_model_len: int | None = Field(None, gt=0)
    sleep: SleepLevel | None = 1


# What says where an engine is and how long it may take, and nothing of what it samples.
PLACE = {"url", "adapter_dir", "timeout", "retries", "gpu_memory_utilization", "tolerance"}


def _of_a_kind(given: Any) -> Any:
    """Options without a kind are those of the default."""
    return {"kind": "in_process", **given} if isinstance(given, dict) else given


EngineSettings = Annotated[
    InProcess | VLLMServerSettings | VLLMSettings, Field(discriminator="kind"), BeforeValidator(_of_a_kind)
]


@contextmanager
def open_engine(settings: EngineSettings, policy: Policy, model: ModelConfig, max_rows: int) -> Iterator[Engine]:
    """The engine that `settings` name, tried out, and closed at the end. UserError when it is not there or not right.

    `policy` was loaded as `model` says; at most `max_rows` completions are sampled at a time.
    """
    if isinstance(settings, InProcess):
        own = settings.dtype is None
        yield HFEngine(policy, max_rows) if own else CopyEngine(policy, DTYPES[str(settings.dtype)], max_rows)
        return
    folder = None if settings.adapter_dir is None else Path(settings.adapter_dir).expanduser()
    if folder is not None and not folder.is_dir():
        raise UserError(f"engine.adapter_dir {settings.adapter_dir!r} is no folder")
    backend = _backend(settings, policy, model, max_rows)
    engine = ServedEngine(policy, backend, tolerance=settings.tolerance, folder=folder, sleep=settings.sleep)
    with engine:
        yield engine


def _backend(settings: VLLMServerSettings | VLLMSettings, policy: Policy, model: ModelConfig, max_rows: int) -> Backend:
    if isinstance(settings, VLLMServerSettings):
        return VLLMServer(settings.url, timeout=settings.timeout, retries=settings.retries, max_rows=max_rows)
    return VLLMLocal(
        model,
        rank=_rank(policy),
        max_rows=max_rows,
        sleeps=settings.sleep is not None,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        max_model_len=settings.max_model_len,
    )


def _rank(policy: Policy) -> int:
    return int(policy.model.peft_config[policy.model.active_adapter].r)  # type: ignore[union-attr, index]
