"""find_sites: every architecture has the sites it should, and models without any are refused with a report."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as tf
from torch import nn

from layersmith.anatomy import find_sites
from layersmith.anatomy.adapters import open_up
from layersmith.names import check_sites
from tests.anatomy.families import BY_NAME, FAMILIES, Family

EVERY = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
OTHERS = {
    "gptj": (
        lambda: tf.GPTJForCausalLM(
            tf.GPTJConfig(vocab_size=96, n_embd=32, n_layer=1, n_head=4, rotary_dim=4, n_positions=64)
        ),
        ["attn_norm", "attn", "ffn"],  # side by side, after one norm
    ),
    "fnet": (
        lambda: tf.FNetForMaskedLM(
            tf.FNetConfig(vocab_size=96, hidden_size=32, num_hidden_layers=1, intermediate_size=48)
        ),
        ["attn", "attn_norm", "ffn", "ffn_norm"],  # tokens are mixed by a Fourier transform
    ),
    "swin": (
        lambda: tf.SwinForImageClassification(
            tf.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1], num_heads=[2], window_size=4)
        ),
        ["attn_norm", "attn", "ffn_norm", "ffn"],  # attention in windows, none of which crosses the middle
    ),
}


def expected_names(family: Family) -> list[str]:
    names = []
    for stack, roles in family.roles.items():
        prefix = f"{stack}." if stack else ""
        for layer in range(family.blocks):
            names += [f"{prefix}layers.{layer}", *(f"{prefix}layers.{layer}.{role}" for role in roles)]
        names += [name for name in family.extra if name.startswith(prefix)]
    return names


@EVERY
def test_names_kinds_and_traits(family: Family) -> None:
    model = family.model()
    width = 16 if family.name.startswith("torch") else 32
    anatomy = find_sites(model)
    assert [s.name for s in anatomy.sites] == expected_names(family)
    check_sites([s.name for s in anatomy.sites])  # what refuses a slip knows them all
    for site in anatomy.sites:
        kind = {"attn": "mixer", "cross_attn": "mixer", "ffn": "ffn", "block": "block"}.get(site.role, "norm")
        assert site.kind == kind, site
        assert site.d_model == width
        assert site.causal == (site.stack in family.causal and kind in ("mixer", "block")), site
        assert site.cross == (site.role == "cross_attn")
        assert site.calls == (1 if site.role == "final_norm" else family.calls)
        assert bool(site.locked) == (site.name in family.locked), site
        for path in site.modules:
            model.get_submodule(path)
    assert list(anatomy.blocks) == list(family.roles)


@EVERY
def test_every_parameter_is_in_a_site_or_in_a_note(family: Family) -> None:
    model = family.model()
    anatomy = find_sites(model)
    placed = tuple(f"{path}." for s in anatomy.sites if s.kind != "block" for path in s.modules)
    notes = " ".join(anatomy.notes)
    for name, _ in model.named_parameters():
        owner = name.rpartition(".")[0]
        pattern = ".".join("*" if piece.isdigit() else piece for piece in owner.split("."))
        assert name.startswith(placed) or owner in notes or pattern in notes, name


@EVERY
def test_the_model_is_left_as_it_was(family: Family) -> None:
    model = family.model()
    open_up(model)
    model.train()
    model.get_submodule(next(name for name, _ in model.named_children())).eval()
    modes = {name: m.training for name, m in model.named_modules()}
    hooks = [dict(m._forward_hooks) for m in model.modules()]
    find_sites(model)
    assert modes == {name: m.training for name, m in model.named_modules()}
    assert [dict(m._forward_hooks) for m in model.modules()] == hooks
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["albert", "torch_pre_norm", "torch_post_norm"])
def test_opening_changes_neither_outputs_nor_state_dict(name: str) -> None:
    family = BY_NAME[name]
    closed, inputs = family.model(), family.inputs()
    opened = copy.deepcopy(closed)
    assert open_up(opened)
    assert open_up(opened) == ()
    out = [model(**inputs) for model in (closed, opened)]
    first, second = out if name != "albert" else [o.logits for o in out]
    assert torch.allclose(first, second, rtol=0, atol=1e-5)
    before, after = closed.state_dict(), opened.state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    blank = {key: torch.zeros_like(value) for key, value in before.items()}
    opened.load_state_dict(blank)
    assert all(not value.any() for value in opened.state_dict().values())
    opened.load_state_dict(before)
    assert all(torch.equal(before[key], opened.state_dict()[key]) for key in before)


def test_an_opened_albert_saves_as_albert(tmp_path) -> None:
    model = BY_NAME["albert"].model()
    inputs = BY_NAME["albert"].inputs()
    expected = model(**inputs).logits
    find_sites(model)
    model.save_pretrained(tmp_path)
    again = tf.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**inputs).logits, expected)


def test_albert_with_two_layers_in_its_group() -> None:
    config = BY_NAME["albert"].model().config
    config.inner_group_num = 2
    anatomy = find_sites(tf.AlbertForMaskedLM(config))
    assert [s.calls for s in anatomy.of_kind("mixer")] == [3, 3]
    assert [s.name for s in anatomy.of_kind("ffn")] == ["layers.0.ffn", "layers.1.ffn"]


def test_a_stack_inside_a_sequential_is_not_one_block() -> None:
    encoder = BY_NAME["torch_pre_norm"].model()
    model = nn.Sequential(nn.Linear(8, 16), encoder, nn.Linear(16, 4))
    anatomy = find_sites(model, example={"input": torch.randn(2, 6, 8)})
    assert anatomy.blocks == {"": ("1.layers.0", "1.layers.1")}


@pytest.mark.parametrize("name", OTHERS)
def test_unusual_sublayers(name: str) -> None:
    build, roles = OTHERS[name]
    torch.manual_seed(0)
    anatomy = find_sites(build().eval())
    assert [s.role for s in anatomy.in_block("layers.0")] == roles
    assert anatomy.site("layers.0.attn").kind == "mixer"
    assert anatomy.site("layers.0.attn").causal == (name == "gptj")


class Stack(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class InPlace(nn.Module):
    """A block that writes in place: its residuals, and the outputs of two experts into a tensor of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.experts = Experts()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        y = self.norm(x)
        x += self.mix(y, y, y)[0]
        x += self.experts(x)
        return x


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, 16)
        result = torch.zeros_like(tokens)
        first = tokens.sum(-1) > 0
        for expert, chosen in ((self.one, first), (self.two, ~first)):
            rows = chosen.nonzero().squeeze(-1)
            result.index_add_(0, rows, expert(tokens[rows]))
        return result.view(x.shape)


def test_writes_in_place_are_understood() -> None:
    torch.manual_seed(0)
    anatomy = find_sites(Stack(InPlace(), InPlace()), example={"x": torch.randn(2, 6, 16)})
    assert [s.role for s in anatomy.in_block("layers.1")] == ["attn_norm", "attn", "ffn"]
    assert anatomy.site("layers.1.ffn").modules == ("blocks.1.experts",)


class Pair(nn.Module):
    """Two maps side by side in one module: added, or written into the two halves of one tensor."""

    def __init__(self, halves: bool) -> None:
        super().__init__()
        self.halves, width = halves, 8 if halves else 16
        self.one, self.two = nn.Linear(16, width), nn.Linear(16, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.halves:
            return self.one(x) + self.two(x)
        result = torch.empty_like(x)
        result[..., :8] = self.one(x)
        result[..., 8:] = self.two(x)
        return result


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(16), inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(self.norm(x))


@pytest.mark.parametrize("halves", [False, True])
def test_two_maps_in_one_module_are_one_sublayer(halves: bool) -> None:
    anatomy = find_sites(Stack(Residual(Pair(halves))), example={"x": torch.randn(2, 6, 16)})
    assert [s.modules for s in anatomy.of_kind("ffn")] == [("blocks.0.inner",)]
