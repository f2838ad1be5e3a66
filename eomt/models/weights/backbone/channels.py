"""A patch embedding of three colors for images of more channels.

The rule is timm's `adapt_input_conv` (timm/models/_manipulate.py), which `timm.create_model(in_chans=C)` follows: the
weights of red, green and blue are repeated until there are C, and scaled by 3 / C. So an image whose channels are all
alike has the embedding that it had as a gray one if C is a multiple of 3.
"""

from collections.abc import Mapping
from typing import Any

from timm.models import adapt_input_conv
from torch import Tensor, nn

from eomt.utils.images import RGB

WEIGHT = "patch_embed.proj.weight"
COLORS = ("red", "green", "blue")
# channels that a note names
NAMED = 9
# attribute of a patch embedding
MARK = "made_of_colors"


def fit_channels(state: Mapping[str, Tensor], embedding: Any) -> dict[str, Tensor]:
    """Return a backbone's state dict with a patch embedding of as many channels; one that has them already is kept.

    Args:
        state: Tensors in timm's names; also changes to them, as the rule is linear.
        embedding: The backbone's `patch_embed`, which is marked if what fills it is made of three colors.
    """
    weight, channels = state.get(WEIGHT), embedding.proj.in_channels
    if weight is None or weight.dim() != 4 or weight.shape[1] != RGB or channels == RGB:
        return dict(state)
    mark_adapted(embedding)
    return dict(state) | {WEIGHT: adapt_input_conv(channels, weight)}


def mark_adapted(embedding: nn.Module) -> None:
    """Note that the weights of a patch embedding were made of those of three colors."""
    setattr(embedding, MARK, True)


def adapted_note(embedding: Any) -> str | None:
    """Return what a patch embedding was made of, for people; None if it was loaded as it is, or is random."""
    if not getattr(embedding, MARK, False):
        return None
    channels = embedding.proj.in_channels
    extra = ", ".join(f"{channel} of {COLORS[channel % RGB]}" for channel in range(RGB, channels)[:NAMED])
    return (
        f"the patch embedding takes {channels} channels; its weights were loaded for three, and are adapted: 0, 1, 2 "
        f"of red, green, blue, {extra}{', ...' if channels > RGB + NAMED else ''}, all times 3 / {channels}; frozen, "
        "it stays so (patch_embed in trainable_modules trains it)"
    )
