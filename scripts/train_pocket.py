"""Train *pocket*, the embedded language model: a 3.9 M-parameter Llama on the source of the Python standard library.

    python scripts/train_pocket.py --steps 1600

Everything follows from the seed: the byte-level BPE, the order of the windows, the weights at the start. The state is
saved every few minutes under ``--work``; the same command after a kill goes on from there. At the end the weights
(fp16), the tokenizer, ``metrics.json`` and the model card are written to ``--out``, the package's own folder.
``--export-now`` trains nothing: the last saved state is measured and written out as it stands.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from collections import deque
from pathlib import Path

import torch
from pocket_card import card, xz_bits_per_byte
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers import __version__ as transformers_version

from layersmith.data.text import read, units

VOCABULARY, CONTEXT = 4096, 512
SHORT_CONTEXT, SHORT_SHARE = 256, 0.75  # most steps read short windows, which cost less; the last ones the full context
TOKENS_PER_STEP = 4096
CHECKPOINT_SECONDS = 180
STATE = "state.safetensors"
PACKAGE_FOLDER = Path(__file__).resolve().parents[1] / "src" / "layersmith" / "pocket"
say = Console(width=120).print


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text comes back unchanged. A line break and the indent after it make one piece."""
    pieces = r"\n+ *| ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The architecture: 8 layers, width 192, 6 query heads on 2 key/value heads, SwiGLU of 512, tied embeddings."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=8,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # What writes to the residual stream starts smaller, so that its variance does not grow with depth.
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.data /= math.sqrt(2 * model.config.num_hidden_layers)
    return model


def batch_at(step: int, steps: int, stream: torch.Tensor, seed: int) -> torch.Tensor:
    """The windows of one step, (windows, length): every epoch cuts the stream at a new offset and shuffles."""
    length = SHORT_CONTEXT if step < SHORT_SHARE * steps else CONTEXT
    batch = TOKENS_PER_STEP // length
    per_epoch = (len(stream) - CONTEXT) // TOKENS_PER_STEP
    epoch, place = divmod(step, per_epoch)
    draw = torch.Generator().manual_seed(seed * 1000 + epoch)
    offset = int(torch.randint(CONTEXT, (), generator=draw))
    windows = stream[offset : offset + per_epoch * TOKENS_PER_STEP].view(-1, length)
    order = torch.randperm(len(windows), generator=draw)
    return windows[order[place * batch : (place + 1) * batch]]


def new_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms; one learning rate fits both."""
    inside = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "layers" in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim < 2 or "layers" not in name]
    return [
        torch.optim.Muon(inside, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then linear decay to zero."""
    return peak * min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def save_state(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], facts: dict) -> None:
    """Weights and optimizer moments in one file, replaced in one move: a kill never leaves half a state."""
    tensors = {}
    for name, weight in model.named_parameters():
        tensors[f"weight/{name}"] = weight.detach()
        for optimizer in optimizers:
            tensors |= {f"{moment}/{name}": value for moment, value in optimizer.state.get(weight, {}).items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"facts": json.dumps(facts)})
    os.replace(partial, path)


def load_state(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]) -> dict:
    """Put a saved state back; returns its facts (step, tokens, seconds)."""
    weights = dict(model.named_parameters())
    with safe_open(path, "pt") as saved:
        for key in list(saved.keys()):
            kind, name = key.split("/")
            weight, value = weights[name], saved.get_tensor(key)
            if kind == "weight":
                weight.data.copy_(value)
            else:
                owner = next(
                    one for one in optimizers if any(weight is w for g in one.param_groups for w in g["params"])
                )
                owner.state[weight][kind] = value.to(weight.device)
        return json.loads(saved.metadata()["facts"])


@torch.no_grad()
def bits_per_byte(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str, stride: int = CONTEXT // 2
) -> float:
    """What the model needs to write a text, in bits per UTF-8 byte.

    The text is read in windows of CONTEXT tokens that start `stride` apart; each token is scored once, in the first
    window that reaches it, where it sees at least `CONTEXT - stride` tokens before it, or all there are.
    """
    tokens = tokenizer(text, verbose=False)["input_ids"]
    ids = torch.tensor([tokenizer.eos_token_id, *tokens], device=model.device)
    nats, scored = 0.0, 1  # position 0 is the end-of-text token that opens every text
    for start in range(0, max(1, len(ids) - CONTEXT + stride), stride):
        window = ids[start : start + CONTEXT]
        logits = model(input_ids=window[None]).logits[0].float()
        first = scored - start
        nats += torch.nn.functional.cross_entropy(logits[first - 1 : -1], window[first:], reduction="sum").item()
        scored = start + len(window)
    return nats / math.log(2) / len(text.encode())


def export(out: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, facts: dict) -> dict:
    """Round to fp16, measure what was rounded, and write weights, tokenizer, metrics and card."""
    small = new_model(tokenizer)
    small.load_state_dict({name: weight.cpu().half().float() for name, weight in model.state_dict().items()})
    small.eval()
    files = units("stdlib", "heldout")
    heldout = [text for _, text in files]
    sizes = [len(text.encode()) for text in heldout]
    by_file = [bits_per_byte(small, tokenizer, text) for text in heldout]
    together, apart = xz_bits_per_byte(heldout)
    metrics = {
        "heldout_bits_per_byte": sum(bits * size for bits, size in zip(by_file, sizes, strict=True)) / sum(sizes),
        "xz9_bits_per_byte_one_stream": together,
        "xz9_bits_per_byte_file_by_file": apart,
        "heldout_files": len(heldout),
        "heldout_bytes": sum(sizes),
        "heldout_tokens": sum(len(tokenizer(document, verbose=False)["input_ids"]) for document in heldout),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        **facts,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers_version,
        "heldout_bits_per_byte_by_file": {name: bits for (name, _), bits in zip(files, by_file, strict=True)},
    }
    small.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    shape = {"context": CONTEXT, "vocabulary": VOCABULARY, "short_context": SHORT_CONTEXT, "short_share": SHORT_SHARE}
    (out / "README.md").write_text(card(metrics | shape))
    return metrics


def train(
    arguments: argparse.Namespace,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    stream: torch.Tensor,
    facts: dict,
    bytes_per_token: float,
) -> dict:
    """Train from the step that `facts` name to the last one, saving the state on the way; returns the last facts."""
    device = model.device.type

    @torch.compile(dynamic=False)  # compiled once for each of the two window lengths
    def loss_of(windows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            logits = model(input_ids=windows, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), windows[:, 1:].flatten())

    recent = deque(maxlen=25)
    began, saved = time.monotonic() - facts["seconds"], time.monotonic()
    for step in range(facts["step"], arguments.steps):
        for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
            group["lr"] = learning_rate(step, arguments.steps, arguments.lr)
        loss = loss_of(batch_at(step, arguments.steps, stream, arguments.seed).to(device))
        if not torch.isfinite(loss):
            sys.exit(f"The loss is {loss.item()} at step {step}: lower --lr and start again in a new --work folder.")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens = (step + 1) * TOKENS_PER_STEP
        recent.append(loss.item())
        facts = {
            "step": step + 1,
            "tokens": tokens,
            "epochs": tokens / len(stream),
            "peak_learning_rate": arguments.lr,
            "seed": arguments.seed,
            "seconds": round(time.monotonic() - began, 1),
            "device": torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads",
        }
        if (step + 1) % 25 == 0:
            mean = sum(recent) / len(recent)
            say(
                f"step {step + 1}/{arguments.steps}  loss {mean:.3f}  "
                f"{mean / math.log(2) / bytes_per_token:.3f} bits/byte  "
                f"{tokens / facts['seconds']:,.0f} tokens/s  {facts['seconds'] / 60:.1f} min"
            )
        if time.monotonic() - saved > CHECKPOINT_SECONDS or step + 1 == arguments.steps:
            save_state(arguments.work / STATE, model, optimizers, facts)
            saved = time.monotonic()
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--lr", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("out/pocket"), help="folder of the resumable state")
    parser.add_argument("--out", type=Path, default=PACKAGE_FOLDER)
    parser.add_argument("--export-now", action="store_true", help="write out the last saved state as it stands")
    arguments = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(arguments.seed)
    arguments.work.mkdir(parents=True, exist_ok=True)
    documents = read("stdlib", "train")
    tokenizer = train_tokenizer(documents)
    ids = [[tokenizer.eos_token_id, *document] for document in tokenizer(documents, verbose=False)["input_ids"]]
    stream = torch.tensor([token for document in ids for token in document])
    bytes_per_token = sum(len(document.encode()) for document in documents) / len(stream)
    say(f"{len(documents)} files, {len(stream):,} tokens, {bytes_per_token:.2f} bytes per token, on {device}")

    model = new_model(tokenizer).to(device)
    optimizers = new_optimizers(model)
    facts = {"step": 0, "tokens": 0, "seconds": 0.0}
    state = arguments.work / STATE
    if state.exists():
        facts = load_state(state, model, optimizers)
        say(f"going on from step {facts['step']}")
    if arguments.export_now:
        if not facts["step"]:
            sys.exit(
                f"There is no saved state in {arguments.work} to write out: train first, or name its --work folder."
            )
        say(export(arguments.out, model, tokenizer, facts))
        return

    facts = train(arguments, model, optimizers, stream, facts, bytes_per_token)
    say(export(arguments.out, model, tokenizer, facts))


if __name__ == "__main__":
    main()
