"""Dictionaries on disk: ours with its fingerprint, and SAELens's, read and written, against what its formulas say."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from layersmith.errors import UserError
from layersmith.explaining.dictionaries.saelens import export_saelens, import_saelens
from layersmith.explaining.dictionaries.stored import Fingerprint, load_dictionary, save_dictionary
from layersmith.explaining.tool import Observed
from layersmith.ffn.sparse_dictionary import SparseDictionary

D, FEATURES, K = 8, 20, 3


def dictionary(activation="topk", centred=True, skip=False):
    torch.manual_seed(0)
    made = SparseDictionary(D, FEATURES, K, activation, skip=skip, centred=centred)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        if activation in ("jumprelu", "batch_topk"):
            made.threshold.fill_(0.25)
        made.input_scale.fill_(8.0)
        made.output_scale.fill_(8.0 if centred else 0.5)
    return made.eval().requires_grad_(False)


@pytest.fixture
def x():
    return torch.randn(200, D, generator=torch.Generator().manual_seed(1))


def site(seed=0, width=D):
    torch.manual_seed(seed)
    module = torch.nn.Linear(width, width)
    rows = torch.randn(5, width)
    return Fingerprint.of(Observed(rows, module(rows).detach(), None, module))


def test_what_is_saved_comes_back_with_scales_and_facts(x, tmp_path):
    made = dictionary("jumprelu", centred=False, skip=True)
    save_dictionary(made, tmp_path / "d", site(), {"steps": 5})
    again, made_for, facts = load_dictionary(tmp_path / "d", site())
    assert torch.equal(again(x), made(x))
    assert (made_for, facts) == (site(), {"steps": 5})
    assert float(again.input_scale) == 8.0
    save_dictionary(dictionary(), tmp_path / "d", site(), {})
    assert load_dictionary(tmp_path / "d")[0].activation == "topk", "the new one is in the old one's place"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_dictionary_of_another_site_is_refused(tmp_path):
    save_dictionary(dictionary(), tmp_path / "d", site(), {})
    with pytest.raises(UserError, match=r"reads 8 channels and writes 8; the site reads 9"):
        load_dictionary(tmp_path / "d", site(width=9))
    with pytest.raises(UserError, match="another sublayer"):
        load_dictionary(tmp_path / "d", site(seed=1))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("dictionary.json", b"{", "cannot be read"),
        ("dictionary.json", b"[]", "no JSON object"),
        ("dictionary.json", b'{"format": 9}', "another version"),
        ("dictionary.json", b'{"format": 1}', "damaged"),
        ("dictionary.safetensors", b"xx", "damaged"),
    ],
)
def test_damage_is_told(tmp_path, file, content, said):
    save_dictionary(dictionary(), tmp_path / "d", site(), {})
    (tmp_path / "d" / file).write_bytes(content)
    with pytest.raises(UserError, match=said):
        load_dictionary(tmp_path / "d")


def test_no_other_part_is_built_and_no_code_run_for_a_folder(tmp_path):
    save_dictionary(dictionary(), tmp_path / "d", site(), {})
    path = tmp_path / "d" / "dictionary.json"
    head = json.loads(path.read_text())
    for name in ("glu", "os:system"):
        path.write_text(json.dumps({**head, "spec": {**head["spec"], "name": name}}))
        with pytest.raises(UserError, match="no sparse dictionary"):
            load_dictionary(tmp_path / "d")


def test_other_peoples_files_are_not_overwritten(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        save_dictionary(dictionary(), tmp_path / "d", site(), {})
    with pytest.raises(UserError, match="is a file"):
        save_dictionary(dictionary(), tmp_path / "d" / "thesis.txt", site(), {})


FORMS = [
    ("topk", True, False, "topk"),
    ("batch_topk", True, False, "jumprelu"),
    ("jumprelu", True, False, "jumprelu"),
    ("gated", True, False, "gated"),
    ("relu", True, False, "standard"),
    ("relu", False, False, "transcoder"),
    ("relu", False, True, "skip_transcoder"),
    ("jumprelu", False, False, "jumprelu_transcoder"),
    ("batch_topk", False, False, "jumprelu_transcoder"),
]


@pytest.mark.parametrize(("activation", "centred", "skip", "architecture"), FORMS)
def test_saelens_round_trip_is_exact(x, tmp_path, activation, centred, skip, architecture):
    made = dictionary(activation, centred, skip)
    density = torch.rand(FEATURES)
    export_saelens(made, tmp_path / "sae", {"model_name": "m", "hook_name": "blocks.0.hook_mlp_out"}, density)
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["architecture"] == architecture
    again, metadata, frequency = import_saelens(tmp_path / "sae")
    assert metadata["model_name"] == "m"
    torch.testing.assert_close(frequency, density)
    torch.testing.assert_close(again(x), made(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(again.decoder, made.decoder), "rows keep their norm"
    export_saelens(again, tmp_path / "two", metadata)
    first, second = (load_file(tmp_path / name / "sae_weights.safetensors") for name in ("sae", "two"))
    assert all(torch.equal(first[key], second[key]) for key in {*first, *second})


def by_hand(tmp_path, config, **changes):
    """A folder as SAELens 6 writes it, and its tensors."""
    draw = torch.Generator().manual_seed(4)
    tensors = {
        "W_enc": torch.randn(D, FEATURES, generator=draw),
        "W_dec": torch.randn(FEATURES, D, generator=draw),
        "b_enc": torch.randn(FEATURES, generator=draw),
        "b_dec": torch.randn(D, generator=draw),
        **changes,
    }
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    base = {"d_in": D, "d_sae": FEATURES, "dtype": "float32", "normalize_activations": "none", "metadata": {}}
    (tmp_path / "cfg.json").write_text(json.dumps({**base, **config}))
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    return tensors


def test_a_handwritten_standard_folder_is_read(x, tmp_path):
    t = by_hand(tmp_path, {"architecture": "standard", "apply_b_dec_to_input": True})
    expected = torch.relu((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) @ t["W_dec"] + t["b_dec"]
    torch.testing.assert_close(import_saelens(tmp_path)[0](x), expected)
    t = by_hand(tmp_path, {"architecture": "standard", "apply_b_dec_to_input": False})
    expected = torch.relu(x @ t["W_enc"] + t["b_enc"]) @ t["W_dec"] + t["b_dec"]
    torch.testing.assert_close(import_saelens(tmp_path)[0](x), expected)


@pytest.mark.parametrize("rescaled", [False, True])
def test_a_handwritten_topk_folder_is_read(x, tmp_path, rescaled):
    t = by_hand(tmp_path, {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": rescaled})
    norms = t["W_dec"].norm(dim=-1) if rescaled else torch.ones(FEATURES)
    pre = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) * norms
    codes = torch.relu(pre) * (pre >= pre.topk(K).values[:, -1:])
    torch.testing.assert_close(import_saelens(tmp_path)[0](x), (codes / norms) @ t["W_dec"] + t["b_dec"])


def test_handwritten_gated_and_jumprelu_folders_are_read(x, tmp_path):
    gate, magnitude, ratio = torch.randn(FEATURES), torch.randn(FEATURES), 0.2 * torch.randn(FEATURES)
    t = by_hand(tmp_path, {"architecture": "gated"}, b_enc=None, b_gate=gate, b_mag=magnitude, r_mag=ratio)
    rows = x - t["b_dec"]
    codes = (rows @ t["W_enc"] + gate > 0) * torch.relu(rows @ (t["W_enc"] * ratio.exp()) + magnitude)
    torch.testing.assert_close(import_saelens(tmp_path)[0](x), codes @ t["W_dec"] + t["b_dec"], rtol=1e-4, atol=1e-5)
    threshold = torch.rand(FEATURES)
    t = by_hand(tmp_path, {"architecture": "jumprelu_transcoder", "d_out": D}, threshold=threshold)
    pre = x @ t["W_enc"] + t["b_enc"]
    expected = torch.relu(pre) * (pre > threshold) @ t["W_dec"] + t["b_dec"]
    torch.testing.assert_close(import_saelens(tmp_path)[0](x), expected)


def test_what_saelens_has_no_form_for_is_refused(tmp_path):
    with pytest.raises(UserError, match="no transcoder with the activation 'topk'"):
        export_saelens(dictionary("topk", centred=False), tmp_path / "sae", {})
    with pytest.raises(UserError, match="no skip transcoder with the activation 'jumprelu'"):
        export_saelens(dictionary("jumprelu", centred=False, skip=True), tmp_path / "sae", {})
    assert not (tmp_path / "sae").exists()


def test_what_cannot_stand_here_is_refused(tmp_path):
    by_hand(tmp_path, {"architecture": "temporal"})
    with pytest.raises(UserError, match="'temporal'; what can be read is topk"):
        import_saelens(tmp_path)
    by_hand(tmp_path, {"architecture": "standard", "normalize_activations": "layer_norm"})
    with pytest.raises(UserError, match="layer_norm"):
        import_saelens(tmp_path)
    by_hand(tmp_path, {"architecture": "standard"}, b_enc=None)
    with pytest.raises(UserError, match="does not hold"):
        import_saelens(tmp_path)
    by_hand(tmp_path, {"architecture": "transcoder"}, W_enc=torch.randn(D + 1, FEATURES))
    with pytest.raises(UserError, match="reads 9 channels and writes 8"):
        import_saelens(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        import_saelens(tmp_path / "nowhere")
