"""Heads on the features of an encoder: a projection and classifiers."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.errors import UserError

DROPOUT = 0.1
Head = Literal["linear", "mlp", "cosine"]


class ProjectionHead(nn.Sequential):
    """A projection of features (B, in_dim) to (B, proj_dim) through one hidden layer, as in SimCLR.

    Chen et al., arXiv:2002.05709.

    Args:
        in_dim: Width of the features.
        proj_dim: Width of the output.
        proj_hidden_dim: Width of the hidden layer; None takes in_dim.

    Raises:
        UserError: If a width is below 1.
    """

    def __init__(self, in_dim: int, proj_dim: int = 256, proj_hidden_dim: int | None = None) -> None:
        hidden = in_dim if proj_hidden_dim is None else proj_hidden_dim
        _check_widths(proj_dim=proj_dim, proj_hidden_dim=hidden)
        super().__init__(nn.Linear(in_dim, hidden), nn.GELU(), nn.Linear(hidden, proj_dim))


class MorphClassifier(nn.Sequential):
    """A classifier of features (B, in_dim) with one hidden layer and dropout; its logits are (B, num_classes).

    Args:
        in_dim: Width of the features.
        cls_hidden_dim: Width of the hidden layer.
        num_classes: Number of classes.

    Raises:
        UserError: If a width is below 1.
    """

    def __init__(self, in_dim: int, cls_hidden_dim: int = 512, num_classes: int = 2) -> None:
        _check_widths(cls_hidden_dim=cls_hidden_dim, num_classes=num_classes)
        super().__init__(
            nn.Linear(in_dim, cls_hidden_dim), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(cls_hidden_dim, num_classes)
        )


class CosineClassifier(nn.Module):
    """A classifier with logits scale * cos(theta_c); theta_c is the angle between features and the weight of class c.

    For losses with a margin between angles, such as CosFace (Wang et al., CVPR 2018, arXiv:1801.09414).

    Args:
        in_dim: Width of the features.
        num_classes: Number of classes.
        scale: Factor of the cosines; it replaces the lengths of features and weights, which are normalized to 1.

    Raises:
        UserError: If a width is below 1, or the scale is not above 0.
    """

    def __init__(self, in_dim: int, num_classes: int = 2, scale: float = 16.0) -> None:
        super().__init__()
        _check_widths(num_classes=num_classes)
        if not scale > 0:
            raise UserError(f"scale: {scale}; must be above 0")
        self.scale = scale
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_classes, in_dim)))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of features (B, in_dim), in fp32."""
        # bf16 would round the scaled cosines to steps of 1/16
        with torch.autocast(features.device.type, enabled=False):
            cosines = F.linear(F.normalize(features.float(), dim=1), F.normalize(self.weight.float(), dim=1))
            return self.scale * cosines


def make_classifier(head: Head, in_dim: int, num_classes: int, cls_hidden_dim: int, scale: float) -> nn.Module:
    """Return a classifier of features (B, in_dim), whose logits are (B, num_classes).

    Args:
        head: linear, mlp (one hidden layer), or cosine.
        in_dim: Width of the features.
        num_classes: Number of classes.
        cls_hidden_dim: Width of the mlp's hidden layer.
        scale: Scale of the cosine head.

    Raises:
        UserError: If a value is not allowed.
    """
    if head == "linear":
        return nn.Linear(in_dim, num_classes)
    if head == "mlp":
        return MorphClassifier(in_dim, cls_hidden_dim, num_classes)
    if head == "cosine":
        return CosineClassifier(in_dim, num_classes, scale)
    raise UserError(f"head: {head!r}; must be linear, mlp or cosine")


def _check_widths(**widths: int) -> None:
    for name, width in widths.items():
        if width < 1:
            raise UserError(f"{name}: {width}; must be at least 1")
