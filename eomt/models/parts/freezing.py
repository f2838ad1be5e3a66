"""Freezing of all but some parts of a network, with adapters as they are and the record of the adaptation true."""

from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from eomt.errors import UserError
from eomt.lora.adaptable import Adaptable
from eomt.lora.adapter_layer import is_adapter_name, lora_layers
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig, adaptation, record
from eomt.lora.packed_weight import packed_layers
from eomt.lora.targets import is_inside
from eomt.lora.trainable import expected_trainable
from eomt.models.parts.text_tower import decoder_of
from eomt.models.parts.vision_tower import VisionTower


def freeze_models(
    network: Adaptable,
    vision_encoder: VisionTower,
    text_model: PreTrainedModel,
    unfreeze_encoder_layers: int,
    unfreeze_decoder: bool,
) -> None:
    """Freeze the pre-trained models of a question answering network but for what is named, in place.

    Args:
        network: It all.
        vision_encoder: In it.
        text_model: In it.
        unfreeze_encoder_layers: Number of the last blocks of the vision encoder that are trained in full.
        unfreeze_decoder: Train the decoder, where there is one, and all weights that are tied to it, which are printed.

    Raises:
        UserError: For more blocks than there are.
    """
    blocks = list(vision_encoder.blocks)
    if not 0 <= unfreeze_encoder_layers <= len(blocks):
        raise UserError(f"unfreeze_encoder_layers: {unfreeze_encoder_layers}; must be 0 to {len(blocks)}")
    paths = [*network.new_modules]
    paths += [path_of(network, block) for block in blocks[len(blocks) - unfreeze_encoder_layers :]]
    decoder = decoder_of(text_model)
    if unfreeze_decoder and decoder is not None:
        parts = [path_of(network, decoder), path_of(network, text_model.get_output_embeddings())]
        paths += parts
        for names in tied_weights(network, parts):
            print(f"[LoRA] Unfrozen with the decoder, as it is one tensor: {', '.join(names)}")
            paths += [name.removesuffix(".weight") for name in names if not is_inside(name, parts)]
    freeze_all_but(network, paths)


def freeze_all_but(network: nn.Module, paths: list[str]) -> None:
    """Train the adapters of `network`, and the modules at `paths` in full; freeze all else, in place.

    Weights under an adapter stay frozen wherever they are. What `trainable_modules` named before no longer counts.

    Raises:
        UserError: For a module whose running statistics would change though it is frozen, or whose weight is
            quantized.
    """
    full = [inner for path in paths for inner in without_adapters(network, path)]
    if held := [path for path in packed_layers(network) if is_inside(path, full)]:
        raise UserError(f"quantize: {held[0]!r} is quantized and cannot be trained; set quantize to null")
    done = adaptation(network)
    if done is None and not any(is_adapter_name(name) for name, _ in network.named_parameters()):
        apply_lora(network, LoRAConfig(enabled=False, freeze_base_model=True, trainable_modules=full))
        return
    if done is not None:
        config = replace(done.config, freeze_base_model=True, trainable_modules=full)
        record(network, replace(done, config=config, trained_in_full=full))
        expected = expected_trainable(network)
    else:
        # adapters that were put into a part of the network, of which there is no record here
        names = [name for name, _ in network.named_parameters()]
        expected = {name for name in names if is_adapter_name(name) or is_inside(name, full)}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in expected)


def without_adapters(network: nn.Module, path: str) -> list[str]:
    """Return `path`, or the outermost modules inside it that hold no adapter."""
    module = network.get_submodule(path)
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    if not any(is_adapter_name(name) for name in names):
        return [path] if names else []
    if path in lora_layers(network) or any(is_adapter_name(name) for name, _ in module.named_children()):
        return []
    return [inner for name, _ in module.named_children() for inner in without_adapters(network, f"{path}.{name}")]


def tied_weights(network: nn.Module, paths: list[str]) -> list[list[str]]:
    """Return all names of each parameter that has a name inside `paths` and one outside."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [several for several in names.values() if len({is_inside(name, paths) for name in several}) == 2]


def path_of(network: nn.Module, module: nn.Module) -> str:
    """Return the dotted path of a module of `network`."""
    return next(path for path, other in network.named_modules() if other is module)
