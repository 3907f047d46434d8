"""Healing by adapters: only they are trained, what is merged leaves no trace, what stays is saved with the model."""

import copy

import pytest
import torch

from layersmith import checkpoint
from layersmith.anatomy import find_sites
from layersmith.anatomy.edit import Edit, apply
from layersmith.errors import UserError
from layersmith.ffn.domain_adapters import DomainAdapters
from layersmith.ffn.lora_experts import LoRAExperts
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.measuring.divergence import divergence
from layersmith.refitting.heal.adapters import ADAPTERS, build_adapter
from layersmith.refitting.heal.adapters.adapter_bias import last_maps
from layersmith.refitting.heal.adapters.corrected import can_be_corrected
from layersmith.refitting.heal.adapters.frozen import frozen
from layersmith.refitting.heal.distillation import HealSettings, heal
from layersmith.runs.workspace import Workspace
from tests.anatomy.families import BY_NAME
from tests.refitting.conftest import tiny_llama, token_batches
from tests.refitting.whole_run import run as whole_run

BATCHES, HELDOUT = token_batches(8, seed=5), token_batches(3, seed=6)
STAYING = {"lora_experts": LoRAExperts, "domain_adapters": DomainAdapters}


@pytest.fixture
def teacher():
    return tiny_llama(layers=2)


@pytest.fixture
def hurt(teacher):
    """The teacher with noise on one feed-forward."""
    changed = copy.deepcopy(teacher)
    torch.manual_seed(1)
    changed.model.layers[0].mlp.down_proj.weight += 0.1 * torch.randn(32, 64)
    return changed.requires_grad_(True)


def healed(changed, teacher, adapter, steps=40, workspace=None, tell=lambda text, done, total: None, **settings):
    options = HealSettings(steps, **{"lr": 2e-2, "check_every": 4, "patience": 99, "adapter": adapter, **settings})
    return heal(changed, teacher, find_sites(teacher), BATCHES, HELDOUT, options, workspace=workspace, tell=tell)


def stored(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def modules(model):
    return [(path, type(m)) for path, m in model.named_modules()]


def test_lora_heals_through_maps_of_low_rank_and_leaves_the_rest_alone(hurt, teacher):
    before, there = stored(hurt), modules(hurt)
    apart = divergence(teacher, hurt, HELDOUT).value
    healing = healed(hurt, teacher, "lora:2")
    after = stored(hurt)
    assert modules(hurt) == there
    assert after.keys() == before.keys()
    assert not healing.rolled_back
    found = divergence(teacher, hurt, HELDOUT).value
    assert found < 0.9 * apart
    assert found == pytest.approx(min(point["heldout_divergence"] for point in healing.curve), rel=1e-3)
    changed = {k for k in after if not torch.equal(after[k], before[k])}
    assert changed == {k for k in after if k.endswith("_proj.weight")}
    for k in changed:
        sizes = torch.linalg.svdvals((after[k] - before[k]).double())
        assert sizes[2] < 1e-4 * sizes[0], "of rank two"
    assert all(p.requires_grad for p in hurt.parameters())


class Spelled(torch.nn.Linear):
    """As Falcon has it: torch's map in other words."""

    def forward(self, x):
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Choosing(torch.nn.Linear):
    """As Llama 4's router: more than a map."""

    def forward(self, x):
        return super().forward(x).softmax(-1), x


class Grouped(torch.nn.Linear):
    """As DeepSeek-V4 has it: it takes no plain rows."""

    def forward(self, x):
        return super().forward(x.unflatten(-1, (2, self.weight.shape[1])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_derived_class_is_a_linear_map_where_it_multiplies_as_one(dtype):
    assert can_be_corrected(Spelled(6, 4).to(dtype))
    assert can_be_corrected(Spelled(6, 4, bias=False).to(dtype))
    assert not any(can_be_corrected(kind(6, 4).to(dtype)) for kind in (Choosing, Grouped))
    packed = Spelled(6, 4)
    packed.weight = torch.nn.Parameter(torch.ones(4, 6, dtype=torch.int8), requires_grad=False)
    assert not can_be_corrected(packed)


@pytest.mark.parametrize(("name", "biased"), [("llama", False), ("gpt2", True)])
def test_adapter_bias_is_one_vector_behind_each_feed_forward(name, biased):
    teacher = BY_NAME[name].model().requires_grad_(False)
    hurt, inputs = copy.deepcopy(teacher).requires_grad_(True), BY_NAME[name].inputs()
    paths, anatomy = last_maps(hurt), find_sites(teacher)
    assert len(paths) == len(anatomy.of_kind("ffn"))
    assert all(path.endswith("c_proj" if name == "gpt2" else "down_proj") for path in paths)
    with torch.no_grad():
        moved = hurt.get_submodule(paths[0])
        if biased:
            moved.bias.add_(torch.linspace(-1, 1, 32).sin())
        else:
            moved.weight.mul_(0.5)
    with build_adapter("adapter_bias").training(hurt, anatomy, 0):
        trained = sum(p.numel() for p in hurt.parameters() if p.requires_grad)
    hidden, wide = max(moved.weight.shape), min(moved.weight.shape)
    assert trained == len(paths) * (hidden + wide + biased)
    before = stored(hurt)
    options = HealSettings(12, lr=3e-2, check_every=3, patience=99, adapter="adapter_bias")
    assert not heal(hurt, teacher, anatomy, [inputs], [inputs], options).rolled_back
    changed = {k: v - before[k] for k, v in stored(hurt).items() if not torch.equal(v, before[k])}
    assert changed.keys() == {f"{p}.weight" for p in paths} | ({f"{p}.bias" for p in paths} if biased else set())
    for k, delta in changed.items():
        if k.endswith("weight"):
            sizes = torch.linalg.svdvals(delta.double())
            assert sizes[1] < 1e-4 * sizes[0], "of rank one"
    if biased:  # the shift is along the same vector as the columns of the correction
        delta = changed[f"{paths[0]}.weight"]
        vector = delta.sum(0 if delta.shape[1] == wide else 1)
        cosine = torch.nn.functional.cosine_similarity(vector, changed[f"{paths[0]}.bias"], dim=0)
        assert abs(float(cosine)) > 0.999


@pytest.mark.parametrize("adapter", ["lora", "adapter_bias"])
def test_rolled_back_every_bit_is_as_it_was(hurt, teacher, adapter):
    before = stored(hurt)
    assert healed(hurt, teacher, adapter, steps=8, lr=3.0).rolled_back
    assert all(torch.equal(v, before[k]) for k, v in stored(hurt).items())


@pytest.mark.parametrize("adapter", ["lora", "lora_experts"])
def test_killed_it_goes_on_to_the_same_end(hurt, teacher, adapter, tmp_path):
    build_adapter(adapter).place(hurt, 0)
    other, start = copy.deepcopy(hurt), copy.deepcopy(hurt)
    whole = healed(hurt, teacher, adapter, steps=12)
    workspace = Workspace(tmp_path / "run", {})

    def die(text, done, total):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        healed(other, teacher, adapter, steps=12, workspace=workspace, tell=die)
    assert modules(other) == modules(start), "after an interruption there is nothing left of healing"
    resumed = healed(start, teacher, adapter, steps=12, workspace=workspace)
    assert resumed.curve == whole.curve
    assert all(torch.equal(v, stored(start)[k]) for k, v in stored(hurt).items())
    workspace.close()


@pytest.mark.parametrize("adapter", ["lora", "adapter_bias", "lora_experts"])
def test_gradients_pass_through_number_formats_and_codes_are_what_was_measured(teacher, adapter):
    """Adapters find their way past matrices in int8, and correct those that they are made for."""
    changed = copy.deepcopy(teacher)
    torch.manual_seed(1)
    for path in ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj"):
        if adapter == "lora_experts" and "mlp" in path:
            continue
        weight = changed.get_submodule(path).weight
        part = Int8Dynamic.from_weight(weight + 0.1 * torch.randn_like(weight), None)
        apply(changed, [(Edit(path, part.spec(), {}), part)])
    build_adapter(adapter).place(changed, 0)
    changed.requires_grad_(True)
    before, there, apart = stored(changed), modules(changed), divergence(teacher, changed, HELDOUT).value
    healing = healed(changed, teacher, adapter)
    assert modules(changed) == there
    assert not healing.rolled_back
    found = divergence(teacher, changed, HELDOUT).value
    assert found < apart
    assert found == pytest.approx(min(point["heldout_divergence"] for point in healing.curve), rel=1e-3)
    codes = {k.rsplit(".", 2)[1] for k, v in stored(changed).items() if "codes" in k and not torch.equal(v, before[k])}
    assert codes == {"lora": {"q_proj", "o_proj", "down_proj"}, "adapter_bias": {"down_proj"}}.get(adapter, set())


@pytest.mark.parametrize("adapter", ["lora", "domain_adapters"])
def test_a_student_in_half_precision_heals_too(hurt, teacher, adapter):
    teacher, hurt = teacher.to(torch.bfloat16), hurt.to(torch.bfloat16)
    build_adapter(adapter).place(hurt, 0)
    hurt.requires_grad_(True)
    apart = divergence(teacher, hurt, HELDOUT).value
    healing = healed(hurt, teacher, adapter)
    assert not healing.rolled_back
    found = divergence(teacher, hurt, HELDOUT).value
    assert found < 0.95 * apart
    assert found == pytest.approx(min(point["heldout_divergence"] for point in healing.curve), rel=1e-3)
    assert {p.dtype for p in hurt.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("adapter", STAYING)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_stays_changes_nothing_at_first_and_is_saved_with_the_model(adapter, family, tmp_path):
    model, inputs = BY_NAME[family].model(), BY_NAME[family].inputs()
    with torch.no_grad():
        expected = model(**inputs).logits
    original = copy.deepcopy(model)
    replacement = build_adapter(f"{adapter}:2").place(model, 0)
    parts = [m for m in model.modules() if isinstance(m, STAYING[adapter])]
    assert len(parts) == len(find_sites(original).of_kind("ffn"))
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
        for parameter in parts[0].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        expected = model(**inputs).logits
        checkpoint.save(model, [edit for edit, _ in replacement], tmp_path / "model")
        again, _ = checkpoint.load(str(tmp_path / "model"))
        assert torch.equal(again(**inputs).logits, expected)


@pytest.mark.parametrize("adapter", STAYING)
def test_what_stays_is_all_that_is_trained(hurt, teacher, adapter):
    build_adapter(adapter).place(hurt, 0)
    hurt.requires_grad_(True)
    before, apart = stored(hurt), divergence(teacher, hurt, HELDOUT).value
    assert not healed(hurt, teacher, adapter).rolled_back
    assert divergence(teacher, hurt, HELDOUT).value < 0.9 * apart
    changed = {k for k, v in stored(hurt).items() if not torch.equal(v, before[k])}
    assert changed
    assert all(".mlp." in k and ".dense." not in k for k in changed)


def test_a_model_without_a_place_for_it_is_refused(teacher):
    empty = copy.deepcopy(teacher)
    for layer in empty.model.layers:
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
            part = layer.get_submodule(name)
            setattr(layer.self_attn, name.rpartition(".")[2], torch.nn.Sequential(_Own(part)))
        layer.mlp = _Own(layer.mlp.down_proj)
        layer.mlp.forward = lambda x: x
    with pytest.raises(UserError, match="leave --heal-adapter out") as refused:
        build_adapter("lora").check(empty, find_sites(teacher))
    assert "\n" not in str(refused.value)


def test_what_is_frozen_in_a_number_format_can_be_looked_at():
    model, inputs = BY_NAME["t5"].model(), BY_NAME["t5"].inputs()
    path = next(name for name, _ in model.named_modules() if name.endswith(".wo"))
    part = Int8Dynamic.from_weight(model.get_submodule(path).weight)
    apply(model, [(Edit(path, part.spec(), {}), part)])
    with frozen(model):
        assert type(model.get_submodule(path)) is not Int8Dynamic
        assert model(**inputs).logits.isfinite().all()


class _Own(torch.nn.Module):
    """A map of a kind that nobody knows."""

    def __init__(self, part):
        super().__init__()
        self.matrix = part.weight

    def forward(self, x):
        return x @ self.matrix.T


def test_every_adapter_says_what_it_is():
    for name in ADAPTERS:
        adapter = build_adapter(name)
        assert adapter.name == name
        assert adapter.summary.endswith(".")
        adapter.check(tiny_llama(layers=1), find_sites(tiny_llama(layers=1)))


@pytest.mark.real
def test_a_whole_run_keeps_its_adapter_and_goes_on_with_it(tmp_path, text, tokenizer):
    result = whole_run(tmp_path / "run", text, tokenizer, heal_adapter="lora_experts:2", heal_lr=2e-3)
    assert result["settings"]["heal_adapter"] == "lora_experts:2"
    assert not result["chosen"]["rolled_back"], result["heal"]
    assert result["chosen"]["measured"]["divergence"] < result["chosen"]["unhealed"]["divergence"]
    assert result["chosen"]["measured"]["params"] > result["chosen"]["unhealed"]["params"]
    assert result["reload_max_abs_diff"] < 1e-4
    again = whole_run(tmp_path / "run", text, tokenizer, heal_adapter="lora_experts:2", heal_lr=2e-3)
    assert again["chosen"]["measured"] == result["chosen"]["measured"]
    with pytest.raises(UserError, match="heal_adapter"):
        whole_run(tmp_path / "run", text, tokenizer, heal_adapter="lora", heal_lr=2e-3)
