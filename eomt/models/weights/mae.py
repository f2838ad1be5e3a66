"""Weights of ViT-MAE: Hugging Face's layout, old names and new, in and out, strictly; and a sound start without any."""

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel

from eomt.errors import UserError
from eomt.lora.adapter_layer import require_merged
from eomt.models.weights.files import read_weights
from eomt.utils.files import write_folder
from eomt.utils.hub import WEIGHT_FILES, require_hub
from eomt.utils.loaded import mark_loaded

CONFIG_FILE = "config.json"
MODEL_TYPE = "vit_mae"
REPOSITORY = "facebook/vit-mae-base"
POSITIONS = "embeddings.position_embeddings"
DECODER_POSITIONS = "decoder_pos_embed"

# What transformers called things before version 5, in the order in which it is looked for. Version 5 still writes these
# names, and a decoder's layers under one that nothing ever had, `decoder_encoder.layer`.
OLD_NAMES = (
    (re.compile(r"(^|\.|_)encoder\.layer\.(\d+)\."), r"\1layers.\2."),
    (re.compile(r"\.attention\.attention\.query\."), ".attention.q_proj."),
    (re.compile(r"\.attention\.attention\.key\."), ".attention.k_proj."),
    (re.compile(r"\.attention\.attention\.value\."), ".attention.v_proj."),
    (re.compile(r"\.attention\.output\.dense\."), ".attention.o_proj."),
    (re.compile(r"\.intermediate\.dense\."), ".mlp.fc1."),
    (re.compile(r"\.output\.dense\."), ".mlp.fc2."),
)
# Arguments of the networks here -> fields of transformers' configuration.
SIZES = {
    "patch_size": "patch_size",
    "hidden_size": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
}
# Other fields that say what the encoder computes; always those of the released models.
FIXED_FIELDS = ("intermediate_size", "hidden_act", "layer_norm_eps", "qkv_bias", "num_channels")
DECODER_FIELDS = ("decoder_hidden_size", "decoder_num_hidden_layers", "decoder_num_attention_heads")


@dataclass
class Checkpoint:
    """What a folder holds.

    Attributes:
        folder: the folder.
        config: fields of its config.json.
        encoder: tensors in the names of a ViTMAEModel.
        decoder: tensors in the names of the decoder of a ViTMAEForPreTraining; none in a folder of an encoder alone.
    """

    folder: Path
    config: dict[str, Any]
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]


def make_config(
    img_size: tuple[int, int], patch_size: int, hidden_size: int, depth: int, num_heads: int, **fields: Any
) -> ViTMAEConfig:
    """transformers' configuration of an encoder whose MLPs are four times as wide, as in all released sizes.

    Args:
        fields: of ViTMAEConfig, besides; see `decoder_fields`.

    Raises:
        UserError: for sizes that cannot be.
    """
    _check_sizes("", patch_size=patch_size, depth=depth, num_heads=num_heads)
    _check_width("hidden_size", hidden_size, num_heads)
    height, width = img_size
    if height != width or height < patch_size or height % patch_size:
        side = max(patch_size, min(height, width) // patch_size * patch_size)
        raise UserError(
            f"img_size: {[height, width]}, must be a square whose side is a multiple of the patch size {patch_size}; "
            f"{[side, side]} would do"
        )
    return ViTMAEConfig(
        image_size=height,
        patch_size=patch_size,
        hidden_size=hidden_size,
        num_hidden_layers=depth,
        num_attention_heads=num_heads,
        intermediate_size=4 * hidden_size,
        **fields,
    )


def decoder_fields(hidden_size: int, depth: int, num_heads: int) -> dict[str, int]:
    """The same of a decoder, as fields of ViTMAEConfig.

    Raises:
        UserError: for sizes that cannot be.
    """
    _check_sizes("decoder_", depth=depth, num_heads=num_heads)
    _check_width("decoder_hidden_size", hidden_size, num_heads)
    return {
        "decoder_hidden_size": hidden_size,
        "decoder_num_hidden_layers": depth,
        "decoder_num_attention_heads": num_heads,
        "decoder_intermediate_size": 4 * hidden_size,
    }


def initialise_positions(model: ViTMAEModel | ViTMAEForPreTraining) -> None:
    """Gives a new model the start that transformers 5 leaves out: positions, class and mask token would all be zero.

    The position embeddings, sines and cosines that are never trained, are recorded as known: they are not random.
    """
    encoder = model if isinstance(model, ViTMAEModel) else model.vit
    # set before the positions are, it makes transformers believe that they came from a file
    encoder.embeddings.patch_embeddings.projection._is_hf_initialized = False  # type: ignore[assignment]
    encoder.embeddings.initialize_weights()
    mark_loaded(encoder, [POSITIONS])
    if isinstance(model, ViTMAEForPreTraining):
        model.decoder.initialize_weights(encoder.embeddings.patch_embeddings.num_patches)
        mark_loaded(model.decoder, [DECODER_POSITIONS])


def read_checkpoint(source: bool | str) -> Checkpoint:
    """Reads a local folder, a repository on the hub, or (true) the released base size.

    Raises:
        UserError: if there is no such thing, it cannot be read, or is no ViT-MAE.
    """
    folder = _find_folder(REPOSITORY if source is True else str(source))
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{folder}: holds no {CONFIG_FILE}; give a folder of a ViT-MAE in Hugging Face layout")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        model_type = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: is no configuration of a model ({type(error).__name__}); copy it again") from error
    if model_type != MODEL_TYPE:
        raise UserError(f"{file}: model_type {model_type!r}, must be {MODEL_TYPE}")
    state = {_new_name(name): value.float() for name, value in read_weights(folder).items()}
    decoder = {name.removeprefix("decoder."): value for name, value in state.items() if name.startswith("decoder.")}
    encoder = {name.removeprefix("vit."): value for name, value in state.items() if not name.startswith("decoder.")}
    return Checkpoint(folder, config, encoder, decoder)


def fill_encoder(model: ViTMAEModel, checkpoint: Checkpoint) -> None:
    """Fills an encoder; the position grid is resampled to its image size.

    Raises:
        UserError: for an encoder of other sizes, or tensors missing, too many or of another shape.
    """
    sizes = {argument: _stored(checkpoint, field) for argument, field in SIZES.items()}
    if any(value != getattr(model.config, SIZES[argument]) for argument, value in sizes.items()):
        found = ", ".join(f"{argument}: {value}" for argument, value in sizes.items())
        own = ", ".join(f"{argument}: {getattr(model.config, field)}" for argument, field in SIZES.items())
        raise UserError(f"{checkpoint.folder}: does not fit, the network has {own}; give it {found}")
    for field in FIXED_FIELDS:
        if (stored := _stored(checkpoint, field)) != (own_value := getattr(model.config, field)):
            raise UserError(f"{checkpoint.folder / CONFIG_FILE}: {field} {stored!r}, must be {own_value!r}")
    state = _with_positions(checkpoint.encoder, POSITIONS, model)
    if fault := _difference(state, model):
        raise UserError(f"{checkpoint.folder}: {fault}; copy it again")
    model.load_state_dict(state)
    mark_loaded(model, state)


def fill_decoder(model: ViTMAEForPreTraining, checkpoint: Checkpoint) -> bool:
    """Fills the decoder if the checkpoint has one of the same sizes; else it stays as it is. Returns whether it did.

    Raises:
        UserError: for one of the same sizes with tensors missing, too many or of another shape.
    """
    same = all(_stored(checkpoint, field) == getattr(model.config, field) for field in DECODER_FIELDS)
    if not checkpoint.decoder or not same:
        return False
    state = _with_positions(checkpoint.decoder, DECODER_POSITIONS, model.decoder)
    if fault := _difference(state, model.decoder):
        raise UserError(f"{checkpoint.folder}: the decoder {fault}; copy it again")
    model.decoder.load_state_dict(state)
    mark_loaded(model.decoder, state)
    return True


def resample_positions(positions: Tensor, side: int) -> Tensor:
    """Position embeddings (1, 1 + n * n, D), the class token's first, on a grid of `side` x `side`, bicubically."""
    own = round((positions.shape[1] - 1) ** 0.5)
    if own == side:
        return positions
    grid = positions[:, 1:].unflatten(1, (own, own)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return torch.cat((positions[:, :1], grid.flatten(2).transpose(1, 2)), dim=1)


def save_encoder_folder(model: ViTMAEModel, folder: str | Path) -> Path:
    """Writes config.json and model.safetensors, whole or not at all; `ViTMAEModel.from_pretrained` opens them.

    Raises:
        UserError: if the model holds adapters, or the folder exists and is something else.
    """
    require_merged(model)
    config = copy.deepcopy(model.config)
    config.architectures = ["ViTMAEModel"]
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}

    def write(beside: Path) -> None:
        config.save_pretrained(beside)
        # not the model's own save_pretrained, which draws a progress bar
        save_file(state, beside / WEIGHT_FILES[0], {"format": "pt"})

    return write_folder(Path(folder), write, _is_encoder_folder)


def _find_folder(name: str) -> Path:
    """The local folder `name`, or that in the hub's cache which holds the files of the repository `name`."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise UserError(
            f"pretrained: {name!r} is no folder; give one in Hugging Face layout, or a repository such as {REPOSITORY}"
        )
    require_hub(name)
    try:
        config = hf_hub_download(name, CONFIG_FILE)
        try:
            hf_hub_download(name, WEIGHT_FILES[0])
        except EntryNotFoundError:
            # the released sizes are there in the older format only
            hf_hub_download(name, WEIGHT_FILES[1])
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"pretrained: {name!r} is no local folder and cannot be had from the hub ({reason}); "
            "give a local one: --model.network.encoder.pretrained FOLDER"
        ) from error
    return Path(config).parent


def _new_name(name: str) -> str:
    for pattern, replacement in OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name


def _stored(checkpoint: Checkpoint, field: str) -> Any:
    """What config.json says; it may leave out what is transformers' default."""
    return checkpoint.config.get(field, getattr(ViTMAEConfig(), field))


def _with_positions(state: dict[str, Tensor], name: str, model: nn.Module) -> dict[str, Tensor]:
    """`state` with its position embeddings on the grid of `model`."""
    if name not in state or state[name].dim() != 3:
        return state
    side = round((model.get_parameter(name).shape[1] - 1) ** 0.5)
    return state | {name: resample_positions(state[name], side)}


def _difference(state: Mapping[str, Tensor], model: nn.Module) -> str | None:
    """None if names and shapes are those of `model`; else the first that is not."""
    own = model.state_dict()
    for name in sorted(set(own) | set(state)):
        if name not in state or name not in own:
            return f"lacks {name!r}" if name not in state else f"holds {name!r}, which the network has not"
        if own[name].shape != state[name].shape:
            return f"holds {name!r} of shape {list(state[name].shape)}, the network's has {list(own[name].shape)}"
    return None


def _check_sizes(prefix: str, **sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"{prefix}{name}: {value}, must be at least 1")


def _check_width(name: str, width: int, num_heads: int) -> None:
    # sines and cosines of two coordinates
    if width < 1 or width % 4 or width % num_heads:
        raise UserError(f"{name}: {width}, must be a multiple of 4 and of the {num_heads} heads")


def _is_encoder_folder(folder: Path) -> bool:
    """Whether `folder` holds such an encoder and nothing else, so that replacing it loses nobody's files."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} == {CONFIG_FILE, WEIGHT_FILES[0]}
