"""The loss of outlier exposure against its definition, and where a claim is all but certain."""

import math

import pytest
import torch

from eomt.losses.outlier_exposure import outlier_loss


def test_outlier_loss_is_how_likely_no_query_claims_an_outlier() -> None:
    torch.manual_seed(0)
    mask_logits, class_logits = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 4)
    outlier = torch.zeros(2, 4, 4, dtype=torch.bool)
    outlier[0, :2, :2] = True  # one cell of the mask logits
    outlier[1, 2:, 2:3] = True  # half a cell
    total = 0.0
    for image, row, column, share in ((0, 0, 0, 1.0), (1, 1, 1, 0.5)):
        for query in range(3):
            known = 1 - class_logits[image, query].softmax(0)[-1].item()
            inside = mask_logits[image, query, row, column].sigmoid().item()
            total -= share * math.log(1 - known * inside)
    assert outlier_loss(mask_logits, class_logits, outlier).item() == pytest.approx(total / 1.5, rel=1e-5)
    assert outlier_loss(mask_logits, class_logits, torch.zeros_like(outlier)).item() == 0


def test_outlier_loss_has_a_gradient_however_sure_a_claim_is() -> None:
    outlier = torch.ones(1, 2, 2, dtype=torch.bool)
    for logit in (15.0, 40.0, 1e4):
        mask_logits = torch.full((1, 1, 2, 2), logit, requires_grad=True)
        class_logits = torch.tensor([[[0.0, -2 * logit]]], requires_grad=True)
        loss = outlier_loss(mask_logits, class_logits, outlier)
        # 1 - claim is about the share of the mask that is left
        assert loss.item() == pytest.approx(logit, rel=1e-3)
        loss.backward()
        assert mask_logits.grad is not None
        assert mask_logits.grad.sum().item() == pytest.approx(1, rel=1e-3)
