"""From a name to a plain model and its tokenizer: embedded, a local folder, a GGUF file, or the hub."""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError

from tessera.core.errors import UserError
from tessera.policy import quantized
from tessera.policy.embedded import EMBEDDED, embedded_folder, load_gguf, quiet
from tessera.policy.quantized import Bits

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_base(
    name: str,
    *,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    revision: str | None = None,
    attn_implementation: str = "sdpa",
    trust_remote_code: bool = False,
    quantize: Bits | None = None,
    device: torch.device | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer called `name`, without an adapter, on the CPU; quantised, on `device`.

    Raises UserError when the name leads nowhere, its files are no complete causal language model, or an option does
    not apply to it.
    """
    place = locate(name, revision)
    if place is not None and place.suffix == ".gguf":
        if quantize is not None:
            raise UserError(f"model.quantize {quantize} takes safetensors, and {name!r} is a GGUF file")
        gguf_dtype = torch.float32 if dtype == "auto" else dtype
        with quiet(warnings=False):
            return load_gguf(place, gguf_dtype, attn_implementation=attn_implementation)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    model_options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation}
    if quantize is not None:
        wanted = torch.float32 if dtype == "auto" else dtype
        model_options |= {
            "quantization_config": quantized.loading(quantize, wanted),
            "device_map": {"": device or "cpu"},
        }
    if place is None:
        options |= _hub_options(revision)
        # transformers looks for an adapter beside the model, and asks the network for it unless told here as well.
        model_options["adapter_kwargs"] = {"local_files_only": options["local_files_only"]}
    with quiet(warnings=False) if place else nullcontext():  # a download shows its progress
        return _from_pretrained(name, place, options, model_options)


def load_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration of the model called `name`, without its weights. Errors as in `load_base`."""
    from transformers import AutoConfig

    config: PretrainedConfig = _without_weights(AutoConfig, name, revision, trust_remote_code)
    return config


def load_tokenizer(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of the model called `name`, without the model. Errors as in `load_base`."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = _without_weights(AutoTokenizer, name, revision, trust_remote_code)
    return tokenizer


def _without_weights(auto: Any, name: str, revision: str | None, trust_remote_code: bool) -> Any:
    place = locate(name, revision)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    source = str(place or name)
    if place is None:
        options |= _hub_options(revision)
    elif place.suffix == ".gguf":
        source, options = str(place.parent), {"gguf_file": place.name}
    with _one_line(name, place, options):
        return auto.from_pretrained(source, **options)


def locate(name: str, revision: str | None = None) -> Path | None:
    """The folder or GGUF file that `name` stands for, None for a hub id. An embedded model is unpacked when new.

    UserError for a path that is not there, a folder that is no model, or a `revision` of something local.
    """
    place = _local_place(name)
    if place is not None and revision is not None:
        raise UserError(f"revision {revision!r} applies to hub models only; {name!r} is local")
    return place


def _local_place(name: str) -> Path | None:
    if name in EMBEDDED:
        return embedded_folder(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return _model_folder(path)
    if path.is_file() and path.suffix == ".gguf":
        return path
    if _looks_local(name):
        raise UserError(f"model {name!r}: no such folder or GGUF file{_suggestion(name)}")
    return None


def _model_folder(path: Path) -> Path:
    if (path / "config.json").is_file():
        return path
    if (path / "adapter_config.json").is_file():
        raise UserError(f"{path} is an adapter: put its base model in name, and this folder in adapter")
    raise UserError(f"{path} is no model folder: it has no config.json")


def _looks_local(name: str) -> bool:
    marked = name.startswith((".", "/", "~")) or name.endswith(".gguf")
    return marked or name.count("/") > 1 or (os.sep != "/" and os.sep in name)


def _from_pretrained(
    name: str, place: Path | None, options: dict[str, Any], model_options: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(place or name)
    with _one_line(name, place, options):
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options, **model_options)
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(f"model {name!r} lacks {len(missing)} weights, which would be random: {', '.join(missing[:3])}")
    return model, tokenizer


@contextmanager
def _one_line(name: str, place: Path | None, options: dict[str, Any]) -> Iterator[None]:
    """One line for what transformers says of files that are not there or broken, and of what it cannot run."""
    try:
        yield
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        if place is not None or not isinstance(error, OSError):
            raise UserError(f"model {name!r} cannot be loaded: {reason}") from error
        if options["local_files_only"]:
            reason = "it cannot be reached, and nothing of that name is cached"
        raise UserError(
            f"model {name!r} is neither embedded nor a local folder, and the hub did not give it: {reason}"
            f"{_suggestion(name)}"
        ) from error


def _hub_options(revision: str | None) -> dict[str, Any]:
    # Without a network transformers retries for a minute and more; the local cache is all there is then.
    return {"revision": revision or "main", "local_files_only": not _hub_reachable()}


def _hub_reachable() -> bool:
    """False when the hub's name does not resolve and no proxy could resolve it for us."""
    from huggingface_hub.constants import ENDPOINT

    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name.rpartition("/")[2].lower(), EMBEDDED, n=1, cutoff=0.6)
    return f" (did you mean the embedded {close[0]!r}?)" if close else ""
