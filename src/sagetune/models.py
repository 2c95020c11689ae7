"""Base models and tokenizers: the embedded ones, or anything that AutoModelForCausalLM loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sagetune import embedded
from sagetune.attention import ADVICE, SEGMENT, check_segments
from sagetune.chat import prepare_tokenizer
from sagetune.config import ModelConfig

TINY = "embedded:tiny"
SMOLLM2 = "embedded:smollm2_135m"


def load_tokenizer(base_model: str, config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of `base_model`, with a chat template that serves tools and a pad token (see prepare_tokenizer)."""
    if base_model == TINY:
        tokenizer: PreTrainedTokenizerBase = embedded.tiny_tokenizer()
    else:
        tokenizer = _from_pretrained(AutoTokenizer, locate(base_model), _hub_options(base_model, config))
    prepare_tokenizer(tokenizer, config.chat_template)
    return tokenizer


def load_model(base_model: str, config: ModelConfig) -> PreTrainedModel:
    """The model of `base_model` in `config.dtype` with `config.attention`, ready to train: no cache.

    Raises ValueError for a folder without a model, a hub id that cannot be fetched, broken weights, and an attention
    that the model cannot use.
    """
    dtype = resolve_dtype(config.dtype)
    attention = SEGMENT if config.attention == "segment" else config.attention
    if base_model == TINY:
        model: PreTrainedModel = embedded.tiny_model().to(dtype if config.dtype != "auto" else torch.float32)
        model.set_attn_implementation(attention)
    else:
        options = {"dtype": dtype, "attn_implementation": attention, **_hub_options(base_model, config)}
        model = _from_pretrained(AutoModelForCausalLM, locate(base_model), options)
    model.config.use_cache = False
    if config.attention == "segment":
        check_segments(model)
    return model


def _from_pretrained(auto: type, where: str, options: dict[str, Any]) -> Any:
    try:
        return auto.from_pretrained(where, **options)  # type: ignore[attr-defined]
    except KeyError as error:  # a model class that picks its attention from a table of its own
        if error.args != (SEGMENT,):
            raise
        raise ValueError(f"model.attention=segment is unknown to the model {where}: {ADVICE}") from error
    except SafetensorError as error:
        raise ValueError(f"sft.base_model: the weights in {where} are broken ({error}); fetch them anew") from error
    except OSError as error:  # transformers' own advice is in the message
        raise ValueError(f"sft.base_model: cannot load {where!r}: {error}") from error


def locate(base_model: str) -> str:
    """The folder or hub id to load `base_model` from. Raises ValueError with what to do where there is no model."""
    if base_model == SMOLLM2:
        return str(embedded.smollm2_folder())
    if base_model.startswith("embedded:"):
        raise ValueError(f"sft.base_model must be {SMOLLM2}, {TINY}, a hub id or a folder, got {base_model!r}")
    folder = Path(base_model).expanduser()
    looks_like_path = base_model.startswith((".", "/", "~")) or base_model.count("/") > 1
    if looks_like_path and not folder.is_dir():
        raise ValueError(f"sft.base_model: there is no folder {base_model!r}")
    if folder.is_dir():
        _check_folder(folder)
        return str(folder)
    return base_model


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"sft.base_model: {folder} is an adapter, not a model; give the model that it was trained on "
            f"(base_model_name_or_path in its adapter_config.json)"
        )
    if not (folder / "config.json").is_file():
        raise ValueError(f"sft.base_model: {folder} has no config.json; give a folder that save_pretrained wrote")


def resolve_dtype(name: str) -> torch.dtype:
    """The torch dtype of model.dtype; auto is bfloat16 where the device has instructions for it."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    return torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32


def _hub_options(base_model: str, config: ModelConfig) -> dict[str, Any]:
    if base_model.startswith("embedded:"):
        return {}
    return {"trust_remote_code": config.trust_remote_code, "revision": config.revision}
