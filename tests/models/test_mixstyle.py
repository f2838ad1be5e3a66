"""MixStyle: the content stays, the style becomes a mixture of two samples', the class token is left alone."""

import pytest
import torch
from torch import Tensor

from eomt.errors import UserError
from eomt.models.mixstyle import MixStyle, style

LABEL = torch.tensor([0, 1, 0, 0, 1, 1, 0, 1])


def tokens() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, 9)[:, None, None]
    return scale * torch.randn(8, 17, 6, generator=generator) + 10 * scale


def test_evaluation_and_probability_0_change_nothing() -> None:
    x = tokens()
    assert MixStyle(1.0).eval()(x) is x
    assert MixStyle(0.0).train()(x) is x


def test_it_mixes_as_often_as_its_probability_says() -> None:
    torch.manual_seed(0)
    x, mixstyle = tokens(), MixStyle(0.3)
    share = sum(mixstyle(x) is not x for _ in range(1000)) / 1000
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / 1000) ** 0.5


@pytest.mark.parametrize("partner", ["random", "same_class"])
def test_style_is_a_mixture_with_a_partner_and_content_and_class_token_stay(partner: str) -> None:
    torch.manual_seed(0)
    x = tokens()
    mixed = MixStyle(1.0, alpha=1.0, partner=partner)(x, LABEL)  # type: ignore[arg-type]
    assert torch.equal(mixed[:, :1], x[:, :1])
    mean, deviation = style(x[:, 1:])
    new_mean, new_deviation = style(mixed[:, 1:])
    # the deviation of a deviation's 1e-6 is all that may differ
    content, new_content = (x[:, 1:] - mean) / deviation, (mixed[:, 1:] - new_mean) / new_deviation
    torch.testing.assert_close(new_content, content, rtol=1e-3, atol=1e-3)
    # for each sample there is one share and one partner that explain all means and deviations; no partner serves twice
    found = []
    for index in range(8):
        for other in range(8):
            gap, moved = mean[other] - mean[index], new_mean[index] - mean[index]
            share = float((gap * moved).sum() / gap.square().sum().clamp(min=1e-9))
            explained = (new_mean[index] - mean[index] - share * gap).abs().max() < 1e-3
            spread = deviation[index] + share * (deviation[other] - deviation[index])
            if explained and (new_deviation[index] - spread).abs().max() < 1e-3 and (other == index or share > 1e-4):
                found.append((index, other))
    assert sorted(index for index, _ in found) == list(range(8))
    assert sorted(other for _, other in found) == list(range(8))
    if partner == "same_class":
        assert all(LABEL[index] == LABEL[other] for index, other in found)


def test_partners_of_the_same_class_vary_and_those_at_random_cross_classes() -> None:
    torch.manual_seed(0)
    for partner, crosses in (("same_class", False), ("random", True)):
        mixstyle = MixStyle(partner=partner)  # type: ignore[arg-type]
        drawn = [mixstyle._partners(8, LABEL, LABEL.device) for _ in range(50)]
        assert all(sorted(row.tolist()) == list(range(8)) for row in drawn)
        assert len({tuple(row.tolist()) for row in drawn}) > 10
        assert any((LABEL[row] != LABEL).any() for row in drawn) == crosses


def test_the_gradient_takes_the_statistics_as_constants() -> None:
    torch.manual_seed(0)
    x = tokens().requires_grad_()
    mixed = MixStyle(1.0)(x)
    mixed.sum().backward()
    ratio = style(mixed[:, 1:].detach())[1] / style(x[:, 1:].detach())[1]
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:, 1:], ratio.expand(-1, 16, -1), rtol=1e-4, atol=1e-4)


def test_half_precision_comes_back_as_it_was() -> None:
    assert MixStyle(1.0)(tokens().bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("fields", [{"probability": 1.5}, {"alpha": 0}, {"partner": "other"}])
def test_values_that_cannot_be_are_refused(fields: dict) -> None:
    with pytest.raises(UserError, match=f"{next(iter(fields))}: .*must be"):
        MixStyle(**fields)
