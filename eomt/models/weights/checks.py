"""A check that tensors are those that a network has, by name and by shape."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Size, Tensor

from eomt.errors import UserError


def check_tensors(
    found: Mapping[str, Tensor | Size],
    expected: Mapping[str, Tensor | Size],
    place: str | Path,
    owner: str,
    remedy: str = "copy it again, or give other weights",
) -> None:
    """Check that names and shapes are exactly the expected ones.

    Args:
        found: Tensors of a file, or their shapes.
        expected: Those of the network.
        place: Where they were found, for messages.
        owner: What has the expected ones, for messages, such as "the network".
        remedy: What would do, for messages.

    Raises:
        UserError: For tensors missing or too many, or of another shape, naming the first.
    """
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        raise UserError(f"{place}: lacks {_some(missing)} of {owner}; {remedy}")
    if unexpected:
        raise UserError(f"{place}: holds {_some(unexpected)}, which {owner} has not; {remedy}")
    for name in sorted(expected):
        shape, own = _shape(found[name]), _shape(expected[name])
        if shape != own:
            raise UserError(f"{place}: {name!r} has shape {list(shape)}, {owner} has {list(own)}; {remedy}")


def check_final_norm(state: Mapping[str, Tensor], place: str | Path) -> None:
    """Check that tensors in timm's names have the norm that follows the last block.

    Fine-tuning for classification in ViT-MAE's code leaves it out: `fc_norm` follows the mean of the tokens.

    Raises:
        UserError: If they have `fc_norm` in its place.
    """
    if "fc_norm.weight" in state and "norm.weight" not in state:
        raise UserError(
            f"{place}: was fine-tuned for classification, with 'fc_norm' in place of the norm of the tokens; give the "
            "weights of the pre-training"
        )


def _shape(value: Tensor | Size) -> Size:
    """Return the shape of a tensor, or the shape itself."""
    return value.shape if isinstance(value, Tensor) else value


def _some(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    return repr(names[0]) if len(names) == 1 else f"{names[0]!r} and {len(names) - 1} more tensors"
