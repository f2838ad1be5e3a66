"""timm's models by name, with weights from the hub or random ones.

timm is imported where a model is built: that takes a second, and the command line asks for the arguments alone.
"""

import difflib
from typing import TYPE_CHECKING, Any

from torch import nn

from eomt.errors import UserError
from eomt.utils.hub import Wanted, require_hub

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

WANTED = Wanted(
    "pretrained",
    "weights in timm or Hugging Face layout",
    "--model.network.encoder.pretrained",
    is_file=True,
    beside=(),
)


def check_name(backbone_name: str, family: str) -> None:
    """Check that timm has a model.

    Args:
        backbone_name: Its name.
        family: Pattern of the names that would do, for messages.

    Raises:
        UserError: If it has not.
    """
    import timm

    if not timm.is_model(backbone_name):
        nearest = difflib.get_close_matches(backbone_name.split(".")[0], timm.list_models(), n=3)
        hint = f"nearest: {', '.join(nearest)}" if nearest else f"see timm.list_models({family!r})"
        raise UserError(f"backbone_name: {backbone_name!r} is no timm model; {hint}")


def create_model(backbone_name: str, from_hub: bool, **arguments: Any) -> nn.Module:
    """Return a timm model.

    Args:
        backbone_name: Its name, which timm has.
        from_hub: Whether its weights are taken from the hub; else they are random.
        **arguments: Of timm's function.

    Raises:
        UserError: If the weights are not available.
    """
    import timm

    repository = pretrained_config(backbone_name).hf_hub_id
    if from_hub and repository:
        require_hub(repository, WANTED)
    try:
        return timm.create_model(backbone_name, pretrained=from_hub, **arguments)
    except (OSError, RuntimeError) as error:
        if not from_hub:
            raise
        raise UserError(
            f"pretrained: the weights of {backbone_name!r} cannot be had from the hub "
            f"({str(error).splitlines()[0]}); give a local folder: --model.network.encoder.pretrained FOLDER"
        ) from error


def pretrained_config(backbone_name: str) -> "PretrainedCfg":
    """Return timm's record of a model's weights and colors; a neutral one where timm has none."""
    import timm
    from timm.models import PretrainedCfg

    return timm.get_pretrained_cfg(backbone_name) or PretrainedCfg()


def base_of(backbone_name: str, pretrained: bool | str) -> str:
    """Return the origin of a model's weights in words: a repository, a path, or the name of the model.

    Args:
        backbone_name: Its name.
        pretrained: Whether they are those of the name; or where else they are from.
    """
    if isinstance(pretrained, str):
        return pretrained
    return (pretrained_config(backbone_name).hf_hub_id or backbone_name) if pretrained else f"{backbone_name} (random)"
