"""What stands between an encoder's features and the classes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.errors import UserError

DROPOUT = 0.1


class ProjectionHead(nn.Sequential):
    """Features (B, in_dim) to a space of their own (B, proj_dim), through one hidden layer, as in SimCLR.

    Chen et al., arXiv:2002.05709.

    Args:
        in_dim: of the features.
        proj_dim: of the answer.
        proj_hidden_dim: of the hidden layer; None takes in_dim.

    Raises:
        UserError: for a width below 1.
    """

    def __init__(self, in_dim: int, proj_dim: int = 256, proj_hidden_dim: int | None = None) -> None:
        hidden = in_dim if proj_hidden_dim is None else proj_hidden_dim
        _check_widths(proj_dim=proj_dim, proj_hidden_dim=hidden)
        super().__init__(nn.Linear(in_dim, hidden), nn.GELU(), nn.Linear(hidden, proj_dim))


class MorphClassifier(nn.Sequential):
    """Features (B, in_dim) to logits (B, num_classes), through one hidden layer with dropout.

    Args:
        in_dim: of the features.
        cls_hidden_dim: of the hidden layer.
        num_classes: of the answer.

    Raises:
        UserError: for a width below 1.
    """

    def __init__(self, in_dim: int, cls_hidden_dim: int = 512, num_classes: int = 2) -> None:
        _check_widths(cls_hidden_dim=cls_hidden_dim, num_classes=num_classes)
        super().__init__(
            nn.Linear(in_dim, cls_hidden_dim), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(cls_hidden_dim, num_classes)
        )


class CosineClassifier(nn.Module):
    """Features (B, in_dim) to scale * cos(theta_c), (B, num_classes); theta_c is the angle to the weight of class c.

    For losses with a margin between angles, such as CosFace (Wang et al., CVPR 2018, arXiv:1801.09414).

    Args:
        in_dim: of the features.
        num_classes: of the answer.
        scale: of the cosines: what the length of features and weights would be.

    Raises:
        UserError: for a width below 1, or a scale that is not above 0.
    """

    def __init__(self, in_dim: int, num_classes: int = 2, scale: float = 16.0) -> None:
        super().__init__()
        _check_widths(num_classes=num_classes)
        if not scale > 0:
            raise UserError(f"scale: {scale}, must be above 0")
        self.scale = scale
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_classes, in_dim)))

    def forward(self, features: Tensor) -> Tensor:
        # bf16 would round the cosines, times the scale, to steps of a sixteenth
        with torch.autocast(features.device.type, enabled=False):
            cosines = F.linear(F.normalize(features.float(), dim=1), F.normalize(self.weight.float(), dim=1))
            return self.scale * cosines


def _check_widths(**widths: int) -> None:
    for name, width in widths.items():
        if width < 1:
            raise UserError(f"{name}: {width}, must be at least 1")
