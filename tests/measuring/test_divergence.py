import copy

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
)
from transformers.models.clip.modeling_clip import CLIPOutput

from layersmith.errors import UserError
from layersmith.measuring.divergence import BLOCK, Divergence, Expected, divergence, first_run, token_kl


def _ids(rows: int = 3, tokens: int = 9) -> Tensor:
    return torch.randint(0, 64, (rows, tokens), generator=torch.Generator().manual_seed(0))


def test_a_model_is_at_no_distance_from_itself(tiny: nn.Module) -> None:
    found = divergence(tiny, copy.deepcopy(tiny), [{"input_ids": _ids()}])
    assert found.value == 0.0
    assert found.agreement == 1.0
    assert found.tokens == 27


def test_kl_equals_the_sum_written_out_in_float64(tiny: nn.Module, other: nn.Module) -> None:
    batches = [{"input_ids": _ids()}, {"input_ids": _ids(1, 5)}]
    found = divergence(tiny, other, batches)
    total, agreed, count = 0.0, 0, 0
    with torch.no_grad():
        for batch in batches:
            p = torch.softmax(tiny(**batch).logits.double(), -1).flatten(0, 1)
            q = torch.softmax(other(**batch).logits.double(), -1).flatten(0, 1)
            for row_p, row_q in zip(p, q, strict=True):
                total += float(sum(a * (a / b).log() for a, b in zip(row_p, row_q, strict=True)))
                agreed += int(row_p.argmax() == row_q.argmax())
                count += 1
    assert total / count > 0.5  # far enough apart for the comparison to mean something
    assert found.value == pytest.approx(total / count, rel=1e-5)
    assert found.agreement == agreed / count
    assert found.kind == "kl"


def test_kl_is_the_teachers(tiny: nn.Module, other: nn.Module) -> None:
    batch = [{"input_ids": _ids()}]
    assert divergence(tiny, other, batch).value != pytest.approx(divergence(other, tiny, batch).value, rel=1e-3)


def test_more_rows_than_a_chunk() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(1, 2 * (BLOCK // 7) + 3, 7, generator=generator)
    student = torch.randn(1, 2 * (BLOCK // 7) + 3, 7, generator=generator)
    found = Divergence()
    found.add(CausalLMOutput(logits=teacher), CausalLMOutput(logits=student))
    assert found.tokens == 2 * (BLOCK // 7) + 3
    assert found.value == pytest.approx(float(token_kl(teacher, student).mean()), rel=1e-6)


def test_padding_never_counts(tiny: nn.Module, other: nn.Module) -> None:
    ids = _ids(1, 6)
    padded = torch.cat([ids, torch.zeros(1, 4, dtype=torch.long)], dim=1)
    mask = torch.tensor([[1] * 6 + [0] * 4])
    alone = divergence(tiny, other, [{"input_ids": ids}])
    with_padding = divergence(tiny, other, [{"input_ids": padded, "attention_mask": mask}])
    assert with_padding.tokens == 6
    assert with_padding.value == pytest.approx(alone.value, rel=1e-5)


def test_encoders_compare_hidden_states(encoder: nn.Module) -> None:
    student = copy.deepcopy(encoder)
    student.encoder.layer[1].output.LayerNorm.weight.data.mul_(1.1)
    batch = {"input_ids": _ids(), "attention_mask": torch.ones(3, 9, dtype=torch.long)}
    batch["attention_mask"][0, 5:] = 0
    found = divergence(encoder, student, [batch])
    with torch.no_grad():
        a, b = encoder(**batch).last_hidden_state.double(), student(**batch).last_hidden_state.double()
    real = batch["attention_mask"].bool()
    assert found.kind == "relative_squared_error"
    assert found.tokens == 23
    assert found.value == pytest.approx(float((a - b)[real].square().sum() / a[real].square().sum()), rel=1e-6)
    assert found.cosine_distance == pytest.approx(0.0, abs=1e-6)  # scaling does not turn
    assert found.agreement is None


def test_cosine_distance_of_orthogonal_states_is_one() -> None:
    found = Divergence()
    found.add(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]))
    assert found.cosine_distance == pytest.approx(1.0)
    assert found.value == pytest.approx(2.0)


def test_a_classifier_has_one_position_per_sequence() -> None:
    found = Divergence()
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    found.add(SequenceClassifierOutput(logits=logits), SequenceClassifierOutput(logits=logits), torch.ones(2, 9))
    assert (found.tokens, found.kind, found.value) == (2, "kl", 0.0)


def test_one_logit_is_a_regression_not_a_distribution() -> None:
    found = Divergence()
    a, b = torch.tensor([[2.0], [2.0]]), torch.tensor([[1.0], [3.0]])
    found.add(SequenceClassifierOutput(logits=a), SequenceClassifierOutput(logits=b))
    assert found.kind == "relative_squared_error"
    assert found.value == pytest.approx(0.25)


def test_what_cannot_be_compared_is_refused() -> None:
    logits = torch.zeros(1, 2, 3)
    with pytest.raises(UserError, match="NaN or infinite"):
        Divergence().add(CausalLMOutput(logits=logits), CausalLMOutput(logits=logits / 0))
    with pytest.raises(UserError, match="shapes"):
        Divergence().add(CausalLMOutput(logits=logits), CausalLMOutput(logits=torch.zeros(1, 2, 4)))
    with pytest.raises(UserError, match="neither 'logits' nor 'last_hidden_state'"):
        Divergence().add(BaseModelOutput(hidden_states=(logits,)), BaseModelOutput(hidden_states=(logits,)))
    with pytest.raises(UserError, match="no batch holds a real token"):
        _ = Divergence().value


def test_a_segmentation_has_one_position_per_pixel() -> None:
    """(B, classes, H, W): the softmax is over the classes, not over a row of pixels."""
    draw = torch.Generator().manual_seed(0)
    theirs, ours = (torch.randn(2, 5, 3, 4, generator=draw) for _ in range(2))
    total = Divergence()
    total.add(CausalLMOutput(logits=theirs), CausalLMOutput(logits=ours))
    p, q = theirs.double().log_softmax(1), ours.double().log_softmax(1)
    assert total.tokens == 2 * 3 * 4
    assert total.value == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-5)


def test_an_answer_marked_in_the_text_has_a_start_and_an_end() -> None:
    """(B, T) scores each: the softmax is over a text's positions, in which batches may differ."""
    draw, total, expected = torch.Generator().manual_seed(0), Divergence(), []
    for length in (2, 5):  # at 2, the positions are as many as start and end
        theirs, ours = (
            QuestionAnsweringModelOutput(
                start_logits=torch.randn(3, length, generator=draw), end_logits=torch.randn(3, length, generator=draw)
            )
            for _ in range(2)
        )
        total.add(theirs, ours, torch.ones(3, length))
        for name in ("start_logits", "end_logits"):
            p, q = theirs[name].double().log_softmax(1), ours[name].double().log_softmax(1)
            expected += (p.exp() * (p - q)).sum(1).tolist()
    assert (total.kind, total.tokens) == ("kl", 12)
    assert total.value == pytest.approx(sum(expected) / 12, rel=1e-5)


def test_a_pair_of_embeddings_counts_both() -> None:
    texts, images = torch.eye(4)[:2], torch.eye(4)[2:]
    total = Divergence()
    theirs = CLIPOutput(text_embeds=texts, image_embeds=images, logits_per_image=texts @ images.T)
    total.add(theirs, CLIPOutput(text_embeds=texts, image_embeds=images.flip(0)))
    assert total.kind == "relative_squared_error"
    assert total.cosine_distance == pytest.approx(0.5)


@pytest.mark.parametrize("padded", [False, True])
def test_one_teacher_serves_many_students(tiny: nn.Module, other: nn.Module, padded: bool) -> None:
    batch = {"input_ids": _ids()}
    mask = (torch.arange(9) < torch.tensor([[9], [4], [1]])).long() if padded else None
    with torch.no_grad():
        teacher, students = tiny(**batch), [other(**batch), tiny(**batch), other(input_ids=_ids() // 2)]
    expected = Expected(teacher, mask)
    for student in students:
        once, again = Divergence(), Divergence()
        once.add(teacher, student, mask)
        again.add_to(expected, student)
        assert (once.value, once.agreement, once.tokens) == (again.value, again.agreement, again.tokens)
    hidden = BaseModelOutput(last_hidden_state=torch.randn(3, 9, 4))
    apart = Divergence()
    apart.add_to(Expected(hidden, mask), BaseModelOutput(last_hidden_state=hidden.last_hidden_state * 1.5))
    assert apart.value == pytest.approx(0.25)


def test_a_model_that_does_not_run_is_refused_in_its_own_words() -> None:
    class Broken(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            raise ValueError("You must specify exactly one of two things.")

    with pytest.raises(UserError, match=r"Broken does not run on input_ids.*ValueError: You must specify exactly one"):
        first_run(Broken(), {"input_ids": torch.zeros(1, 4, dtype=torch.long)})
