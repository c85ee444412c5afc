"""From a name to a plain model and its tokenizer: embedded, a local folder, a GGUF file, or the hub."""

from __future__ import annotations

import difflib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch

from tessera.core.errors import UserError
from tessera.policy.embedded import EMBEDDED, embedded_folder, load_gguf, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_base(
    name: str,
    *,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    revision: str | None = None,
    attn_implementation: str = "sdpa",
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer called `name`, on the CPU, without an adapter.

    Raises UserError when the name leads nowhere, its files are no complete causal language model, or an option does
    not apply to it.
    """
    options = {"attn_implementation": attn_implementation, "trust_remote_code": trust_remote_code}
    place = locate(name)
    if place is not None and revision is not None:
        raise UserError(f"revision {revision!r} applies to hub models only; {name!r} is local")
    if place is None:
        return _from_hub(name, dtype, revision, options)
    if place.suffix == ".gguf":
        gguf_dtype = torch.float32 if dtype == "auto" else dtype
        return load_gguf(place, gguf_dtype, attn_implementation=attn_implementation)
    with quiet(warnings=False):
        return _from_pretrained(str(place), dtype, options, label=name)


def locate(name: str) -> Path | None:
    """The folder or GGUF file that `name` stands for, None for a hub id. An embedded model is unpacked when new."""
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


def _from_hub(
    name: str, dtype: torch.dtype | Literal["auto"], revision: str | None, options: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    # Without a network transformers retries for a minute and more; the local cache is all there is then.
    offline = not _hub_reachable()
    options = options | {"revision": revision or "main", "local_files_only": offline}
    try:
        return _from_pretrained(name, dtype, options, label=name)
    except OSError as error:
        reason = "the hub cannot be reached and it is not in the local cache" if offline else _first_line(error)
        raise UserError(f"model {name!r} is no embedded model, no local folder, and no hub model here: {reason}"
                        f"{_suggestion(name)}") from error  # fmt: skip


def _from_pretrained(
    source: str, dtype: torch.dtype | Literal["auto"], options: dict[str, Any], *, label: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shared = {key: value for key, value in options.items() if key != "attn_implementation"}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **shared)
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, output_loading_info=True, **options)
    except (ValueError, ImportError) as error:  # another architecture, attention kernel or package than is there
        raise UserError(f"model {label!r} cannot be loaded: {_first_line(error)}") from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"model {label!r} lacks {len(missing)} weights, which would be random: {', '.join(missing[:3])}"
        )
    return model, tokenizer


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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name.rpartition("/")[2].lower(), EMBEDDED, n=1, cutoff=0.6)
    return f" (did you mean the embedded {close[0]!r}?)" if close else ""
