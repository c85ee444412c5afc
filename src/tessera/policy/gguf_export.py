"""A model as a GGUF file, through the `gguf` package: for the architectures and tokenizers whose form is known here.

What could not be said exactly in a GGUF file (scaled rotary angles, biases that a reader would drop, a tokenizer that
splits text by unknown rules) is refused, not approximated.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tessera.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ARCHITECTURES = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
FILE_TYPES = {torch.float32: "ALL_F32", torch.float16: "MOSTLY_F16", torch.bfloat16: "MOSTLY_BF16"}
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp's names for rules by which a byte-level tokenizer splits text before its merges.
SPLITS = {_SPLIT % "{1,3}": "llama-bpe", _SPLIT % "": "qwen2"}


def write_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path, name: str) -> None:
    """Write `model`, unquantised and in its own precision, with its tokenizer and chat template.

    Raises UserError, before anything is written, for a model or tokenizer that is not supported.
    """
    check_supported(model, tokenizer)
    import gguf

    config: Any = model.config
    writer = gguf.GGUFWriter(str(file), config.model_type)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[model.dtype]])
    _add_shape(writer, config)
    _add_tokenizer(writer, gguf, tokenizer, config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[ARCHITECTURES[config.model_type]], config.num_hidden_layers)
    for key, tensor in _tensors(model).items():
        known = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise UserError(f"--gguf knows no name for {key} of a model of type {config.model_type}: leave it out")
        _add_tensor(writer, gguf, known, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_supported(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError unless `write_gguf` can write `model` so that it is read back as it is."""
    if find_spec("gguf") is None:
        raise UserError("writing a GGUF file needs the gguf package: pip install gguf")
    config: Any = model.config
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise UserError(f"--gguf writes models of type {', '.join(ARCHITECTURES)}, and this is {kind}: leave it out")
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    odd = {
        f"rotary angles of type {rope}": rope != "default",
        "biases": kind == "llama" and (config.attention_bias or config.mlp_bias),
        "attention biases": kind == "qwen3" and config.attention_bias,
        "a sliding window": getattr(config, "use_sliding_window", False),
        f"the activation {config.hidden_act}": config.hidden_act != "silu",
        f"weights in {model.dtype}": model.dtype not in FILE_TYPES,
    }
    found = [what for what, is_there in odd.items() if is_there]
    if found:
        raise UserError(f"--gguf cannot write {found[0]} of a model of type {kind}: leave it out")
    _pre_tokenizer(tokenizer)


def _add_shape(writer: Any, config: Any) -> None:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: Any, gguf: Any, tokenizer: Any, size: int) -> None:
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {entry["id"]: entry for entry in data["added_tokens"]}
    of_id = {id_: token for token, id_ in tokenizer.get_vocab().items()}
    types = gguf.TokenType

    def kind(id_: int) -> Any:
        if id_ not in of_id:
            return types.UNUSED  # the embedding may have more rows than there are tokens
        if id_ not in added:
            return types.NORMAL
        return types.CONTROL if added[id_]["special"] else types.USER_DEFINED

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer))
    writer.add_token_list([of_id.get(i, f"[PAD{i}]") for i in range(size)])
    writer.add_token_types([kind(i) for i in range(size)])
    merges = data["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for add, id_ in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
    ):
        if id_ is not None:
            add(id_)
    writer.add_add_bos_token(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _pre_tokenizer(tokenizer: Any) -> str:
    """llama.cpp's name for how a byte-level BPE tokenizer splits text; UserError for any other tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    data: Any = json.loads(backend.to_str()) if backend is not None else {"model": {"type": "slow"}}
    outer: Any = data.get("pre_tokenizer") or {}
    steps: list[Any] = outer["pretokenizers"] if outer.get("type") == "Sequence" else [outer]
    kinds = [step.get("type") for step in steps]
    if data["model"]["type"] == "BPE" and data.get("normalizer") in (None, {"type": "NFC"}):
        if kinds == ["ByteLevel"] and steps[0]["use_regex"]:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1]["use_regex"]:
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not steps[1]["use_regex"]:
            rule = steps[0]["pattern"].get("Regex")
            if rule in SPLITS:
                return SPLITS[rule]
    raise UserError("--gguf writes byte-level BPE tokenizers that split as GPT-2's, SmolLM's, Llama 3's or Qwen2's do")


def _tensors(model: Any) -> dict[str, Tensor]:
    """The weights by transformers' names, each once, in the order of a GGUF file's rotary halves."""
    config, found = model.config, dict(model.state_dict())
    if config.tie_word_embeddings:
        found.pop("lm_head.weight", None)
    if config.model_type == "llama":  # llama.cpp pairs neighbours where transformers pairs the halves of a head
        for key in found:
            if ".q_proj." in key:
                found[key] = _paired(found[key], config.num_attention_heads)
            elif ".k_proj." in key:
                found[key] = _paired(found[key], config.num_key_value_heads)
    return found


def _paired(weight: Tensor, heads: int) -> Tensor:
    rows, *rest = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, *rest).swapaxes(1, 2).reshape(weight.shape)


def _add_tensor(writer: Any, gguf: Any, name: str, tensor: Tensor) -> None:
    tensor = tensor.detach().cpu()
    if tensor.ndim == 1 or tensor.dtype is torch.float32:  # norms and biases stay wide
        writer.add_tensor(name, tensor.float().contiguous().numpy())
    elif tensor.dtype is torch.float16:
        writer.add_tensor(name, tensor.contiguous().numpy())
    else:
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quants.quantize(tensor.float().contiguous().numpy(), kind), raw_dtype=kind)
