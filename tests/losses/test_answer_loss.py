"""The loss of answers against cross-entropies by hand."""

import pytest
import torch
import torch.nn.functional as F

from eomt.errors import UserError
from eomt.losses.answers import AnswerLoss

LENGTHS = [1, 5, 3]


def written(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (3, 5, 7) and labels of answers of 1, 5 and 3 tokens."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 7, (3, 5), generator=generator)
    for row, length in enumerate(LENGTHS):
        labels[row, length:] = -100
    return torch.randn(3, 5, 7, generator=generator), labels


def chosen() -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (4, 6) and answers, the third of which is not in the vocabulary."""
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([2, 0, -1, 5])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_written_answer_counts_by_the_mean_over_its_own_tokens(smoothing: float) -> None:
    logits, labels = written()
    loss = AnswerLoss(smoothing)
    by_hand = torch.stack(
        [
            F.cross_entropy(logits[row, :length], labels[row, :length], label_smoothing=smoothing)
            for row, length in enumerate(LENGTHS)
        ]
    )

    torch.testing.assert_close(loss.per_sample(logits, labels), by_hand)
    torch.testing.assert_close(loss(logits, labels), by_hand.mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_chosen_answer_outside_of_the_vocabulary_has_no_loss(smoothing: float) -> None:
    logits, target = chosen()
    known = target >= 0
    loss = AnswerLoss(smoothing)
    expected = F.cross_entropy(logits[known], target[known], label_smoothing=smoothing)

    torch.testing.assert_close(loss(logits, target), expected)
    assert loss.per_sample(logits, target)[2] == 0


def test_padding_changes_nothing() -> None:
    logits, labels = written()
    longer = torch.cat([logits, torch.randn(3, 2, 7)], dim=1), F.pad(labels, (0, 2), value=-100)

    torch.testing.assert_close(AnswerLoss()(*longer), AnswerLoss()(logits, labels))


@pytest.mark.parametrize("sample", [written, chosen])
def test_weights_weigh_and_are_not_divided_away(sample: type) -> None:
    logits, target = sample()
    loss = AnswerLoss()
    weight = torch.arange(1.0, len(target) + 1)
    number = int((loss.per_sample(logits, target) > 0).sum())
    expected = (weight * loss.per_sample(logits, target)).sum() / number

    torch.testing.assert_close(loss(logits, target, weight), expected)
    # a batch of one heavy kind of answer is heavier than one of a light kind
    torch.testing.assert_close(loss(logits, target, torch.full_like(weight, 3.0)), 3 * loss(logits, target))


def test_half_precision_is_summed_in_fp32() -> None:
    logits, labels = written()
    found = AnswerLoss()(logits.bfloat16(), labels, torch.ones(3, dtype=torch.float64))

    assert found.dtype == torch.float32
    torch.testing.assert_close(found, AnswerLoss()(logits.bfloat16().float(), labels))


@pytest.mark.parametrize("sample", [written, chosen])
def test_a_batch_without_targets_gives_zero_with_a_graph(sample: type) -> None:
    logits, target = sample()
    logits.requires_grad_()
    loss = AnswerLoss(0.1)(logits, torch.full_like(target, -100 if target.ndim == 2 else -1), torch.ones(len(target)))
    loss.backward()

    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_is_a_share(smoothing: float) -> None:
    with pytest.raises(UserError, match="label_smoothing"):
        AnswerLoss(smoothing)
