"""Outlier exposure: nothing that a network knows may claim what was pasted from elsewhere."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eomt.utils.distributed import batch_count


def outlier_loss(mask_logits: Tensor, class_logits: Tensor, outlier: Tensor, is_training: bool = False) -> Tensor:
    """Return how surely known classes claim outliers: - log of the probability that no query does, a mean over them.

    A query claims a pixel as a known class with the probability softmax(class)_known * sigmoid(mask), independently of
    others: - sum over q of log(1 - claim_q). That pushes down every L_c, whether a query's class or its mask is at
    fault, and unlike a loss on L itself does not flatten out where many queries agree. After outlier exposure
    (Hendrycks et al., ICLR 2019) and its use with mask classification (Nayal et al., ICCV 2023).

    Args:
        mask_logits: `(B, Q, h, w)`.
        class_logits: `(B, Q, C + 1)`, the last one "no object".
        outlier: What known classes must not claim, bool `(B, H, W)`.
        is_training: Whether this is of a training step, which all processes take together.

    Returns:
        A scalar, in fp32; 0 without outliers.
    """
    with torch.autocast(mask_logits.device.type, enabled=False):
        share = F.interpolate(outlier[:, None].float(), mask_logits.shape[-2:], mode="area")[:, 0]  # (B, h, w)
        log_p = class_logits.float().log_softmax(-1)
        none, known = log_p[..., -1, None, None], log_p[..., :-1].logsumexp(-1)[..., None, None]  # (B, Q, 1, 1)
        # 1 - claim, in logarithms: where a claim is sure it would round to 0, and have no gradient
        unclaimed = torch.logaddexp(none, known + F.logsigmoid(-mask_logits.float())).sum(1)
        return -(share * unclaimed).sum() / batch_count(share.sum(), is_training)
