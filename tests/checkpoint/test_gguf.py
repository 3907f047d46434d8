"""A model out of a .gguf file is a plain model: it is unpacked, and nothing says any more that it was quantized."""

import numpy as np
import pytest
import torch
import transformers as tf

from layersmith.checkpoint import load, save, save_result
from layersmith.errors import UserError
from tests.checkpoint.edited import output

gguf = pytest.importorskip("gguf")

WIDTH, HIDDEN, HEADS, LAYERS = 64, 96, 4, 2
PIECES = ["<unk>", "<s>", "</s>", *[f"<0x{i:02X}>" for i in range(256)], "a", "b", "ab", "▁"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A tiny Llama whose matrices are stored in blocks of eight-bit codes."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(PIECES))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(PIECES)
    writer.add_token_scores([0.0] * len(PIECES))
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 4)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    draw = np.random.default_rng(0)
    shapes = {"token_embd": (len(PIECES), WIDTH), "output": (len(PIECES), WIDTH)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        shapes |= {f"blk.{i}.ffn_{part}": (HIDDEN, WIDTH) for part in ("gate", "up")}
        shapes |= {f"blk.{i}.ffn_down": (WIDTH, HIDDEN)}
    for name, shape in shapes.items():
        values = 0.05 * draw.standard_normal(shape, dtype=np.float32)
        packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ["output_norm", *[f"blk.{i}.{part}_norm" for i in range(LAYERS) for part in ("attn", "ffn")]]:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_is_a_plain_model(file, tmp_path):
    model, tokenizer = load(file)
    assert type(model) is tf.LlamaForCausalLM
    assert tokenizer is not None
    assert not getattr(model, "is_quantized", False)
    assert getattr(model, "hf_quantizer", None) is None
    assert not hasattr(model.config, "quantization_config")
    assert all(type(m) is torch.nn.Linear for n, m in model.named_modules() if n.endswith("_proj"))
    ids = {"input_ids": torch.arange(3, 13)[None]}
    expected = output(model.float(), ids)
    assert torch.isfinite(expected).all()
    model.bfloat16().float()
    model, _ = load(file.parent)
    save_result(model, model, [], tmp_path / "stock", tokenizer)
    save(model, [], tmp_path / "ours", tokenizer)
    for name in ("stock", "ours"):
        assert torch.equal(output(load(tmp_path / name)[0], ids), expected)
    model(**ids, labels=ids["input_ids"]).loss.backward()


@pytest.mark.parametrize("cut", [0, 3, 100, 3000, -1000])
def test_damaged_files_are_refused(file, cut, tmp_path):
    (tmp_path / "x.gguf").write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError):
        load(tmp_path / "x.gguf")


def test_sizes_are_bounded_by_the_file(file, tmp_path):
    whole = file.read_bytes()
    for key in (b"llama.block_count", b"llama.embedding_length", b"llama.vocab_size"):
        at = whole.index(key) + len(key) + 4  # after the key: four bytes that name the type, then the number
        (tmp_path / "x.gguf").write_bytes(whole[:at] + (2 * 10**9).to_bytes(4, "little") + whole[at + 4 :])
        with pytest.raises(UserError):
            load(tmp_path / "x.gguf")
