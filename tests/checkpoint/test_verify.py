"""The saved model in a fresh process, one that starts from nothing: the same numbers, or a clear error."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from layersmith.checkpoint import save, save_result, verify_reload
from layersmith.checkpoint.verify import compare_reloaded
from layersmith.errors import UserError
from tests import forked
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import edited, generated

GLU16 = {"name": "glu", "d_hidden": 16}
LLAMA = BY_NAME["llama"].inputs()
STRANGER = """
import sys, torch
from transformers import AutoModelForCausalLM
from safetensors.torch import load_file, save_file
assert not any(m.startswith("layersmith") for m in sys.modules)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
options = dict(max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0)
save_file({"tokens": model.generate(input_ids=load_file(sys.argv[2])["input_ids"], **options)}, sys.argv[3])
model.save_pretrained(sys.argv[4])
"""


def test_a_process_that_never_imported_layersmith(tmp_path):
    """It loads through AutoModelForCausalLM, generates the same tokens, and saves the model once more."""
    _, model, edits = edited(ffn=GLU16, layers_0_attn={"name": "linear_attention", "n_heads": 2})
    save(model, edits, tmp_path / "model")
    save_file(LLAMA, tmp_path / "in")
    names = [str(tmp_path / name) for name in ("model", "in", "out", "again")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", STRANGER, *names], env=environment, check=True, capture_output=True)
    assert torch.equal(load_file(tmp_path / "out")["tokens"], generated(model, LLAMA))
    for name in ("config.json", "model.safetensors", "modeling_layersmith.py"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


USER = """
import sys, layersmith.api
from transformers import AutoModelForCausalLM
assert type(AutoModelForCausalLM.from_pretrained(sys.argv[1])).__name__ == "LayersmithModel"
"""


def test_a_process_that_imports_the_api_need_not_trust_the_folder(tmp_path):
    """As the README says: importing it makes the Auto classes know the format."""
    _, model, edits = edited(ffn=GLU16)
    save(model, edits, tmp_path / "model")
    subprocess.run([sys.executable, "-c", USER, str(tmp_path / "model")], check=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "parts",
    [{"ffn": GLU16, "layers_1_attn": {"name": "linear_attention", "n_heads": 2}}, {"layers_0": {"name": "zero"}}],
)
def test_equal_other_and_broken_folders_are_told_apart(parts, tmp_path):
    original, model, edits = edited("llama", **parts)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.norm.weight.mul_(1.5)
    for name, saved in (("equal", model), ("other", other), ("broken", model)):
        save_result(saved, original, edits, tmp_path / name)
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"nothing")
    names = ("equal", "other", "broken", "gone")
    equal, differs, broken, gone = compare_reloaded([tmp_path / name for name in names], model, LLAMA)
    assert (equal.difference, equal.problem) == (0.0, "")
    assert differs.difference > 0
    assert differs.problem.startswith("its output differs")
    assert all("does not load in a fresh process" in each.problem for each in (broken, gone))


def test_what_does_not_hold_ends_with_an_error(tmp_path):
    _, model, edits = edited(ffn=GLU16)
    save(model, edits, tmp_path)
    with forked.reloads():
        assert verify_reload(tmp_path, model, LLAMA) == 0.0
        with torch.no_grad():
            model.model.layers[0].mlp.up.weight.mul_(1.5)
        with pytest.raises(UserError, match="not the one that was measured: its output differs"):
            verify_reload(tmp_path, model, LLAMA)
        (tmp_path / "model.safetensors").write_bytes(b"nothing")
        with pytest.raises(UserError, match="does not load in a fresh process"):
            verify_reload(tmp_path, model, LLAMA)
