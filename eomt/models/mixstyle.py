"""MixStyle: features get the style of another image, so that a network does not rely on style."""

from typing import Literal

import torch
from torch import Tensor, nn

from eomt.errors import UserError

EPSILON = 1e-6


class MixStyle(nn.Module):
    """A layer that, in training, mixes mean and deviation of patch tokens between the samples of a batch.

    Zhou et al., "Domain Generalization with MixStyle", ICLR 2021 (arXiv:2104.02008), with statistics over the patches
    of a vision transformer. The class token, which has no statistics, and the labels stay as they are.

    Args:
        probability: Probability of mixing a batch.
        alpha: Parameter of the Beta distribution of each sample's share; below 1 most shares are near 0 or 1.
        partner: Sample whose style is mixed in: any one of the batch, or one of the same class, since style alone may
            show the class, as blur shows morphs.

    Raises:
        UserError: If a value is not allowed.
    """

    def __init__(
        self, probability: float = 0.5, alpha: float = 0.1, partner: Literal["random", "same_class"] = "random"
    ) -> None:
        super().__init__()
        for name, value, good, allowed in (
            ("probability", probability, 0 <= probability <= 1, "at least 0 and at most 1"),
            ("alpha", alpha, alpha > 0, "above 0"),
            ("partner", partner, partner in ("random", "same_class"), "random or same_class"),
        ):
            if not good:
                raise UserError(f"{name}: {value!r}; must be {allowed}")
        self.probability, self.alpha, self.partner = probability, alpha, partner

    def forward(self, tokens: Tensor, label: Tensor | None = None) -> Tensor:
        """Return tokens (B, 1 + N, D) with mixed styles; in evaluation return them unchanged.

        Args:
            tokens: Output of a block, (B, 1 + N, D), the class token first.
            label: Classes, (B,), needed for partners of the same class.
        """
        if not self.training or torch.rand(()) >= self.probability:
            return tokens
        class_token, patches = tokens[:, :1], tokens[:, 1:]
        partners = self._partners(len(tokens), label, tokens.device)
        alpha = torch.full((len(tokens), 1, 1), self.alpha, device=tokens.device)
        share = torch.distributions.Beta(alpha, alpha).sample()
        # without gradients: the network must not learn to change the statistics
        mean, deviation = style(patches.detach())
        mixed_mean = share * mean + (1 - share) * mean[partners]
        mixed_deviation = share * deviation + (1 - share) * deviation[partners]
        mixed = (patches.float() - mean) / deviation * mixed_deviation + mixed_mean
        return torch.cat((class_token, mixed.to(tokens.dtype)), dim=1)

    def _partners(self, batch: int, label: Tensor | None, device: torch.device) -> Tensor:
        """Return a random permutation (B,) of the samples, within each class for partners of the same class."""
        shuffled = torch.randperm(batch, device=device)
        if self.partner == "random":
            return shuffled
        assert label is not None, "partners of the same class need labels"
        # shuffled samples sorted by class take the places of unshuffled ones sorted by class
        from_class = shuffled[label[shuffled].argsort(stable=True)]
        return torch.empty_like(shuffled).scatter_(0, label.argsort(stable=True), from_class)


def style(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of patches (B, N, D) over the patches, each (B, 1, D) in fp32."""
    variance, mean = torch.var_mean(patches.float(), dim=1, keepdim=True)
    return mean, (variance + EPSILON).sqrt()
