"""Which parameters of an adapted network are trained."""

from torch import nn

from eomt.errors import UserError
from eomt.lora.adaptable import as_adaptable
from eomt.lora.adapter_layer import adapter_parameters, lora_layers
from eomt.lora.config import adaptation
from eomt.lora.targets import is_inside


def expected_trainable(model: nn.Module) -> set[str]:
    """Return the names of the parameters that should be trained: those that its config implies, all in a plain model.

    Modules in the network's `frozen_modules` are trained only where `trainable_modules` names them.
    """
    done = adaptation(model)
    frozen = as_adaptable(model).frozen_modules
    named = done.trained_in_full if done else []
    names = {name for name, _ in model.named_parameters() if not is_inside(name, frozen) or is_inside(name, named)}
    if done is None:
        return names
    adapted_weights = {f"{path}.{layer.base_weight_name}" for path, layer in lora_layers(model).items()}
    if done.config.freeze_base_model:
        return set(adapter_parameters(model)) | {name for name in names if is_inside(name, done.trained_in_full)}
    return names - adapted_weights


def check_trainable(model: nn.Module) -> None:
    """Check that exactly those parameters are trainable that the config implies.

    Raises:
        UserError: If one differs; the message names it.
    """
    expected = expected_trainable(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad != (name in expected):
            state = "is frozen, though lora_config trains it" if name in expected else "is trained, not by lora_config"
            raise UserError(f"lora_config: {name!r} {state}; was requires_grad changed after the network was adapted?")


def tied_outside(model: nn.Module, trained_in_full: list[str]) -> tuple[str, str] | None:
    """Return the names, inside and outside of `trained_in_full`, of one parameter that has both; None if none does."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for several in names.values():
        inside = [name for name in several if is_inside(name, trained_in_full)]
        outside = [name for name in several if name not in inside]
        if inside and outside:
            return inside[0], outside[0]
    return None


def drifting_statistics(model: nn.Module, trained_in_full: list[str]) -> str | None:
    """Return the path of a normalization layer whose running statistics training would change; None without.

    Those of `trained_in_full` may change, and those that a network says to keep do not.
    """
    kept = as_adaptable(model).keeps_statistics
    for path, module in model.named_modules():
        tracks = isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
        if tracks and not is_inside(path, [*trained_in_full, *kept]):
            return path
    return None
