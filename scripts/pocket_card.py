"""What `train_pocket.py` sets beside its model, `xz`, and the model card, written from what was measured."""

import lzma


def xz_bits_per_byte(documents: list[str]) -> tuple[float, float]:
    """What `xz -9` needs for the same documents: (in one stream, each file on its own)."""
    files = [document.encode() for document in documents]
    size = sum(map(len, files))
    together = 8 * len(lzma.compress(b"".join(files), preset=9)) / size
    return together, sum(8 * len(lzma.compress(file, preset=9)) for file in files) / size


def card(m: dict) -> str:
    """The model card, written from the measured numbers."""
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# pocket

A Llama-architecture language model of {m["parameters"]:,} parameters that comes with layersmith, so that every command
has a really trained model to work on. It loads with the stock `LlamaForCausalLM` and is not meant for anything else:
it writes plausible Python, not correct Python.

| held-out source of the Python {m["python"]} standard library | bits per byte |
| --- | --- |
| **pocket** (the fp16 weights in this folder, computed in fp32) | **{m["heldout_bits_per_byte"]:.3f}** |
| `xz -9`, all files in one stream | {m["xz9_bits_per_byte_one_stream"]:.3f} |
| `xz -9`, each file on its own | {m["xz9_bits_per_byte_file_by_file"]:.3f} |

The same {m["heldout_files"]} files ({m["heldout_bytes"]:,} bytes, {m["heldout_tokens"]:,} tokens) in all three rows.
pocket reads each file on its own in windows of {m["context"]} tokens that overlap by half: every token sees at least
{m["context"] // 2} tokens before it, or all there are.

- **Data**: `layersmith.data.text.read("stdlib", "train")`, Python {m["python"]}. Train, calibration and held-out text
  are split by a hash of the top-level module's name, so no file of a held-out package was trained on.
- **Tokenizer**: byte-level BPE, {m["vocabulary"]} entries, trained on the train split; any text comes back unchanged.
  A line break and the indent after it are one token: end a prompt with `:`, not with a line break.
- **Shape**: 8 layers, width 192, 6 query heads on 2 key/value heads of 32, SwiGLU of 512, RMSNorm, RoPE, context
  {m["context"]}, tied embeddings.
- **Training**: {m["step"]:,} steps, {m["tokens"]:,} tokens ({m["epochs"]:.1f} epochs), the first
  {m["short_share"]:.0%} of them in windows of {m["short_context"]}, the rest of {m["context"]}; Muon for the matrices
  inside the layers, AdamW for the rest, learning rate {m["peak_learning_rate"]} with linear warm-up and decay,
  seed {m["seed"]}; {m["seconds"] / 60:.0f} minutes of wall-clock time on {m["device"]}.
- **Versions**: torch {m["torch"]}, transformers {m["transformers"]}.
- **Made by**: `scripts/train_pocket.py`; the numbers above are in `metrics.json`.

The text it learned from is the Python standard library's, under the PSF licence.
"""
