"""The base of an adapter in the library that it comes from: lines of code for a model card."""

from collections.abc import Mapping
from typing import Any

# pixels of a side of the images of released SAM 2
SAM2_SIDE = 1024


def base_in_its_library(task: str, config: Mapping[str, Any], base: str | None) -> list[str] | None:
    """Return lines of code that make `base`, the model for an adapter, and behind them the adapter's subfolder.

    Args:
        task: Name of the task's class.
        config: The configuration that opens the weights.
        base: Repository of the base's weights.

    Returns:
        The last line is the subfolder, "" for the folder itself; None where no other library has the base.
    """
    network = (((config.get("model") or {}).get("init_args") or {}).get("network") or {}).get("init_args") or {}
    encoder = (network.get("encoder") or {}).get("init_args") or {}
    if task == "PromptedSegmentation":
        # transformers' model takes the size in its own configuration, and knows no class prompts
        if base is None or network.get("prompt_free") or network.get("img_size") not in (SAM2_SIDE, [SAM2_SIDE] * 2):
            return None
        made = [
            f'base = Sam2Model.from_pretrained("{base}")',
            "# one mask for a prompt, as in training",
            "base.mask_decoder.dynamic_multimask_via_stability = False",
        ]
        return ["from transformers import Sam2Model", "", *made, ""]
    if task == "MaskedAutoencoding" and base is not None:
        name = "ViTMAEForPreTraining"
        return [f"from transformers import {name}", "", f'base = {name}.from_pretrained("{base}")', ""]
    on_timm = ("SemanticSegmentation", "InstanceSegmentation", "PanopticSegmentation", "ImageClassification")
    is_on_timm = task in on_timm and encoder.get("pretrained") is True
    # the encoder of a classifier may be no timm model
    if is_on_timm and not network.get("pretrained") and "backbone_name" in encoder:
        size = encoder.get("img_size")
        fields = ("patch_size", "in_chans")
        patch = "".join(f", {name}={encoder[name]}" for name in fields if encoder.get(name))
        made = [
            "base = timm.create_model(",
            f'    "{encoder.get("backbone_name")}", pretrained=True, num_classes=0, global_pool="",',
            f"    img_size={tuple(size) if isinstance(size, list) else size}, dynamic_img_size=True{patch},",
            ")",
        ]
        return ["import timm", "", *made, "encoder.backbone"]
    return None
