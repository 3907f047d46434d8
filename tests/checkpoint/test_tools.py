"""A result in other people's tools behaves as the stock model does there."""

import copy
import inspect
import pickle

import pytest
import torch
import transformers as tf

from layersmith.checkpoint import LayersmithModel, load, save
from layersmith.errors import UserError
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import edited, output

LLAMA = BY_NAME["llama"].inputs()
GLU16 = {"name": "glu", "d_hidden": 16}


@pytest.fixture
def result(tmp_path):
    _, model, edits = edited(ffn=GLU16)
    save(model, edits, tmp_path / "model")
    return tf.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)


def test_head_and_embedding_are_found(result):
    """PEFT's "all-linear" leaves out the head that `get_output_embeddings` returns."""
    assert result.get_output_embeddings() is result.base.lm_head
    assert result.get_input_embeddings() is result.base.model.embed_tokens
    new = torch.nn.Linear(32, 96, bias=False)
    result.set_output_embeddings(new)
    assert result.base.lm_head is new


def test_forward_names_the_arguments_of_the_stock_model(result):
    names = inspect.signature(result.forward).parameters
    stock = inspect.signature(result.base.forward).parameters
    assert list(names) == list(stock)
    assert {"input_ids", "attention_mask", "labels"} <= set(names)
    from transformers.utils.generic import find_labels

    assert find_labels(type(result)) == ["labels"]


def test_copies_and_pickles_are_whole(result):
    expected = output(result, LLAMA)
    for again in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):  # noqa: S301
        assert type(again) is type(result)
        assert torch.equal(output(again, LLAMA), expected)
    assert type(result).__name__ == "LayersmithModel"
    assert isinstance(result, LayersmithModel)


def test_trainer_trains_with_its_defaults(result, tmp_path):
    pytest.importorskip("accelerate")
    rows = [{"input_ids": list(range(2, 12)), "labels": list(range(2, 12)), "surplus": 1} for _ in range(4)]
    before = copy.deepcopy(result.base.model.layers[0].mlp.up.weight)
    arguments = tf.TrainingArguments(output_dir=str(tmp_path), max_steps=1, report_to=[], use_cpu=True, save_steps=10)
    trainer = tf.Trainer(model=result, args=arguments, train_dataset=Rows(rows))
    trainer.train()
    assert not torch.equal(result.base.model.layers[0].mlp.up.weight, before)


class Rows(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


@pytest.mark.parametrize("auto", ["AutoModelForSequenceClassification", "AutoModelForMaskedLM", "AutoModelForCTC"])
def test_a_head_that_is_not_there_is_refused(auto, tmp_path):
    _, model, edits = edited(ffn=GLU16)
    save(model, edits, tmp_path)
    with pytest.raises(UserError, match=f"LlamaForCausalLM, which {auto} does not open"):
        getattr(tf, auto).from_pretrained(tmp_path, num_labels=2)
    with pytest.raises(UserError, match="does not open"):
        getattr(tf, auto).from_pretrained(tmp_path, trust_remote_code=True)


@pytest.mark.parametrize(
    ("stock", "auto"),
    [
        ("BertForTokenClassification", "AutoModelForTokenClassification"),
        ("BertForSequenceClassification", "AutoModelForSequenceClassification"),
        ("BertForQuestionAnswering", "AutoModelForQuestionAnswering"),
    ],
)
def test_every_head_is_opened_by_its_auto_class(stock, auto, tmp_path):
    torch.manual_seed(0)
    model = getattr(tf, stock)(BY_NAME["bert"].model().config).eval()
    save(model, [], tmp_path)
    again = getattr(tf, auto).from_pretrained(tmp_path)
    assert type(again.base) is type(model)
    inputs = {"input_ids": torch.arange(2, 12)[None]}
    torch.testing.assert_close(output(again, inputs), output(model, inputs))


@pytest.mark.parametrize("tied", [True, False])
def test_a_resized_vocabulary_comes_back(tied, tmp_path):
    torch.manual_seed(0)
    config = BY_NAME["llama"].model().config
    config.tie_word_embeddings = tied
    save(tf.LlamaForCausalLM(config).eval(), [], tmp_path / "model")
    model, _ = load(tmp_path / "model")
    model.resize_token_embeddings(104)
    assert model.config.vocab_size == 104
    model.save_pretrained(tmp_path / "again")
    again, _ = load(tmp_path / "again")
    logits = output(again, LLAMA)
    assert logits.shape[-1] == 104
    assert torch.equal(logits, output(model, LLAMA))


def test_hidden_states_of_a_dropped_block_are_as_many_as_the_config_says(tmp_path):
    _, model, edits = edited(layers_1={"name": "zero"}, layers_0_ffn=GLU16)
    save(model, edits, tmp_path)
    again, _ = load(tmp_path)
    with torch.no_grad():
        found = again(**LLAMA, output_hidden_states=True).hidden_states
    assert len(found) == again.config.num_hidden_layers + 1
