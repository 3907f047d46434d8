"""Put one part at every feed-forward of a model, measure what that costs, keep it, save it and load it again."""

import copy
import tempfile

import layersmith

model, tokenizer = layersmith.load("pocket")
original = copy.deepcopy(model)
sites = layersmith.sites(model)
print(f"{len(sites)} sites, the first feed-forward is {sites['layers.0.ffn'].modules}")

# For a while: the model is as it was when the context ends.
narrow = layersmith.build("glu", d_model=192, d_hidden=128)
with layersmith.swap(model, {"layers.3.ffn": narrow}):
    found = layersmith.measure(model, original, tokenizer=tokenizer, at="prefill=1x64", windows=2, length=64, rounds=3)
print(f"one narrow, untrained feed-forward: divergence {found.comparison['divergence']:.3f} nats per token")

# For good: two lines.
with tempfile.TemporaryDirectory() as folder:
    edits = layersmith.apply(model, {"layers.*.ffn": narrow})
    layersmith.save(model, edits, folder, tokenizer)
    again, _ = layersmith.load(folder)
print(f"saved and loaded: {sum(p.numel() for p in again.parameters()):,} parameters")
