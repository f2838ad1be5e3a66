"""A patch embedding of three colors for images of more channels.

The rule is timm's `adapt_input_conv` (timm/models/_manipulate.py), which `timm.create_model(in_chans=C)` follows: the
weights of red, green and blue are repeated until there are C, and scaled by 3 / C. So a gray image, whose channels are
all alike, has the same embedding as before.
"""

import logging

from timm.models import adapt_input_conv
from torch import Tensor

from eomt.utils.images import RGB

log = logging.getLogger("eomt")

# of the state dict of a timm ViT, and of one in Hugging Face's names that was renamed
WEIGHT = "patch_embed.proj.weight"


def fit_channels(state: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Return a backbone's state dict whose patch embedding takes C channels; one that does so already is kept.

    Args:
        state: Tensors in timm's names.
        channels: C, at least 3.
    """
    weight = state.get(WEIGHT)
    if weight is None or weight.dim() != 4 or weight.shape[1] == channels or weight.shape[1] != RGB:
        return state
    say_adapted(channels)
    return state | {WEIGHT: adapt_input_conv(channels, weight)}


def say_adapted(channels: int) -> None:
    """Say that a patch embedding was made of one of three colors."""
    extra = ", ".join(f"{channel} of {('red', 'green', 'blue')[channel % RGB]}" for channel in range(RGB, channels)[:9])
    log.info(
        "in_chans: the patch embedding takes %d channels; its weights were loaded for three, and are adapted: 0, 1, 2 "
        "of red, green, blue, %s%s, all times 3 / %d; it stays so unless it is adapted or named in trainable_modules "
        "(patch_embed)",
        *(channels, extra, ", ..." if channels > RGB + 9 else "", channels),
    )
