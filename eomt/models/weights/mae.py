"""Weights of ViT-MAE: Hugging Face's layout, old names and new, in and out, strictly; and a sound start without any."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTImageProcessor, ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from eomt.errors import UserError
from eomt.lora.adapter_layer import require_merged
from eomt.models.weights.checks import check_final_norm, check_tensors
from eomt.models.weights.download import find_weights
from eomt.models.weights.files import read_config_fields, read_weights, write_weights
from eomt.models.weights.mae_authors import from_authors, is_of_authors
from eomt.models.weights.renaming import RenamingTable
from eomt.utils.files import write_folder
from eomt.utils.hub import CONFIG_FILE, PREPROCESSOR_FILE, WEIGHT_FILES, Wanted
from eomt.utils.loaded import mark_loaded

MODEL_TYPE = "vit_mae"
REPOSITORY = "facebook/vit-mae-base"
WANTED = Wanted(
    "pretrained",
    f"one in Hugging Face layout, or a repository such as {REPOSITORY}",
    "--model.network.encoder.pretrained",
)
# of single files
WEIGHT_ENDINGS = (".pth", ".pt", ".bin", ".safetensors")
POSITIONS = "embeddings.position_embeddings"
PATCHES = "embeddings.patch_embeddings.projection.weight"
DECODER_POSITIONS = "decoder_pos_embed"

# On the left the names of transformers 5; on the right also those of the versions before, which version 5 still writes,
# and a decoder's layers under one that nothing ever had, `decoder_encoder.layer`.
BLOCK = """
{new}.#.attention.q_proj   {old}.#.attention.(q_proj|attention.query)
{new}.#.attention.k_proj   {old}.#.attention.(k_proj|attention.key)
{new}.#.attention.v_proj   {old}.#.attention.(v_proj|attention.value)
{new}.#.attention.o_proj   {old}.#.(attention.o_proj|attention.output.dense)
{new}.#.mlp.fc1            {old}.#.(mlp.fc1|intermediate.dense)
{new}.#.mlp.fc2            {old}.#.(mlp.fc2|output.dense)
{new}.#.layernorm_*        {old}.#.layernorm_*
"""
ENCODER = RenamingTable(BLOCK.format(new="layers", old="(layers|encoder.layer)"))
DECODER = RenamingTable(BLOCK.format(new="decoder_layers", old="(decoder_layers|decoder_encoder.layer)"))
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
class MAEWeights:
    """What a folder holds.

    Attributes:
        folder: The folder, or the file.
        config: Fields of its config.json; None for what is not known.
        encoder: Tensors in the names of a ViTMAEModel.
        decoder: Tensors in the names of the decoder of a ViTMAEForPreTraining; none in a folder of an encoder alone.
    """

    folder: Path
    config: dict[str, Any]
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]

    def fields(self) -> dict[str, Any]:
        """Return all fields of the configuration: config.json may leave out what is transformers' default."""
        return ViTMAEConfig().to_dict() | self.config


def mae_config(
    img_size: tuple[int, int], patch_size: int, hidden_size: int, depth: int, num_heads: int, **fields: Any
) -> ViTMAEConfig:
    """Return transformers' configuration of an encoder whose MLPs are four times as wide, as in all released sizes.

    Args:
        img_size: Height and width in pixels.
        patch_size: In pixels.
        hidden_size: Width of the tokens.
        depth: Number of blocks.
        num_heads: Of their attention.
        fields: Of ViTMAEConfig, besides; see `mae_decoder_fields`.

    Raises:
        UserError: For sizes that cannot be.
    """
    _check_positive("", patch_size=patch_size, depth=depth, num_heads=num_heads)
    _check_width("hidden_size", hidden_size, num_heads)
    height, width = img_size
    if height != width or height < patch_size or height % patch_size:
        side = max(patch_size, min(height, width) // patch_size * patch_size)
        raise UserError(
            f"img_size: {[height, width]}; must be a square whose side is a multiple of the patch size {patch_size}; "
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


def mae_decoder_fields(hidden_size: int, depth: int, num_heads: int) -> dict[str, int]:
    """Return the same of a decoder, as fields of ViTMAEConfig.

    Raises:
        UserError: For sizes that cannot be.
    """
    _check_positive("decoder_", depth=depth, num_heads=num_heads)
    _check_width("decoder_hidden_size", hidden_size, num_heads)
    return {
        "decoder_hidden_size": hidden_size,
        "decoder_num_hidden_layers": depth,
        "decoder_num_attention_heads": num_heads,
        "decoder_intermediate_size": 4 * hidden_size,
    }


def initialize_mae(model: ViTMAEModel | ViTMAEForPreTraining) -> None:
    """Give a new model the start of the authors' code.

    transformers 5 leaves positions, class and mask token at zero. Its linear layers start from a standard deviation of
    .02 at any width; the authors' from Glorot and Bengio's uniform rule, with query, key and value as one layer.

    The position embeddings, sines and cosines that are never trained, are recorded as known: they are not random.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            # a fused layer has three times the outputs: gain^2 (fan_in + fan_out) = fan_in + 3 fan_out
            is_fused = name.endswith(("q_proj", "k_proj", "v_proj"))
            nn.init.xavier_uniform_(module.weight, gain=math.sqrt(0.5) if is_fused else 1.0)
            nn.init.zeros_(module.bias)
    encoder = model if isinstance(model, ViTMAEModel) else model.vit
    # set before the positions are, it makes transformers believe that they came from a file
    vars(encoder.embeddings.patch_embeddings.projection)["_is_hf_initialized"] = False
    encoder.embeddings.initialize_weights()
    mark_loaded(encoder, [POSITIONS])
    if isinstance(model, ViTMAEForPreTraining):
        model.decoder.initialize_weights(encoder.embeddings.patch_embeddings.num_patches)
        mark_loaded(model.decoder, [DECODER_POSITIONS])


def read_mae(source: bool | str) -> MAEWeights:
    """Read a local folder, a repository on the hub, a file, or (true) the released base size.

    A file has its authors' names or transformers'; sizes are those of its tensors, unless a configuration is beside.

    Raises:
        UserError: If there is no such thing, it cannot be read, or is no ViT-MAE.
    """
    if source is not True and Path(str(source)).suffix.lower() in WEIGHT_ENDINGS and Path(str(source)).is_file():
        return _read_mae_file(Path(str(source)))
    folder = find_weights(REPOSITORY if source is True else str(source), WANTED)
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{folder}: holds no {CONFIG_FILE}; give one in Hugging Face layout, or the file itself")
    config = read_config_fields(file, [MODEL_TYPE])
    state = {name: value.float() for name, value in read_weights(folder).items()}
    return MAEWeights(folder, config, *_from_transformers(state))


def _from_transformers(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of encoder and decoder, of any version's names, in those of transformers 5."""
    decoder = {name.removeprefix("decoder."): value for name, value in state.items() if name.startswith("decoder.")}
    encoder = {name.removeprefix("vit."): value for name, value in state.items() if not name.startswith("decoder.")}
    return ENCODER.backwards(encoder), DECODER.backwards(decoder)


def _read_mae_file(file: Path) -> MAEWeights:
    """Read a single file."""
    state = {name: value.float() for name, value in read_weights(file).items()}
    if is_of_authors(state):
        check_final_norm(state, file)
        encoder, decoder = from_authors(state)
    else:
        encoder, decoder = _from_transformers(state)
    if PATCHES not in encoder:
        raise UserError(f"{file}: has no names of a ViT-MAE; give its authors' .pth, or a folder with a {CONFIG_FILE}")
    beside = file.parent / CONFIG_FILE
    if beside.is_file() and not is_of_authors(state):
        return MAEWeights(file, read_config_fields(beside, [MODEL_TYPE]), encoder, decoder)
    return MAEWeights(file, _fields_of(encoder, decoder), encoder, decoder)


def _fields_of(encoder: dict[str, Tensor], decoder: dict[str, Tensor]) -> dict[str, Any]:
    """Return fields of a configuration; tensors do not tell the number of attention heads, which is None."""
    width, _, patch, _ = encoder[PATCHES].shape
    fields: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": _depth(encoder, "layers"),
        "num_attention_heads": None,
        "patch_size": patch,
        "intermediate_size": 4 * width,
    }
    if "decoder_embed.weight" in decoder:
        fields |= {
            "decoder_hidden_size": len(decoder["decoder_embed.weight"]),
            "decoder_num_hidden_layers": _depth(decoder, "decoder_layers"),
            "decoder_num_attention_heads": None,
        }
    return fields


def _depth(state: dict[str, Tensor], blocks: str) -> int:
    """Return the number of blocks that have these names: <blocks>.<number>."""
    return len({name.split(".")[1] for name in state if name.startswith(f"{blocks}.")})


def fill_mae_encoder(model: ViTMAEModel, weights: MAEWeights) -> None:
    """Fill an encoder; the position grid is resampled to its image size.

    Raises:
        UserError: For an encoder of other sizes, or tensors missing, too many or of another shape.
    """
    own, stored = model.config.to_dict(), weights.fields()
    if any(stored[field] not in (None, own[field]) for field in SIZES.values()):
        has = ", ".join(f"{argument}: {own[field]}" for argument, field in SIZES.items())
        needed = ", ".join(f"{argument}: {stored[field]}" for argument, field in SIZES.items() if stored[field])
        raise UserError(f"{weights.folder}: does not fit, the network has {has}; give it {needed}")
    for field in FIXED_FIELDS:
        if stored[field] != own[field]:
            raise UserError(f"{weights.folder / CONFIG_FILE}: {field} {stored[field]!r}; must be {own[field]!r}")
    state = _with_positions(weights.encoder, POSITIONS, model)
    check_tensors(state, model.state_dict(), weights.folder, "the network")
    model.load_state_dict(state)
    mark_loaded(model, state)


def fill_mae_decoder(model: ViTMAEForPreTraining, weights: MAEWeights) -> bool:
    """Fill the decoder if the weights have one of the same sizes; else leave it as it is.

    Returns:
        Whether it was filled.

    Raises:
        UserError: For one of the same sizes with tensors missing, too many or of another shape.
    """
    own, stored = model.config.to_dict(), weights.fields()
    if not weights.decoder or any(stored[field] not in (None, own[field]) for field in DECODER_FIELDS):
        return False
    state = _with_positions(weights.decoder, DECODER_POSITIONS, model.decoder)
    check_tensors(state, model.decoder.state_dict(), weights.folder, "the decoder")
    model.decoder.load_state_dict(state)
    mark_loaded(model.decoder, state)
    return True


def resample_positions(positions: Tensor, side: int) -> Tensor:
    """Resample position embeddings to a grid of `side` x `side`, bicubically.

    Args:
        positions: (1, 1 + n * n, D), the class token's first.
        side: Rows and columns of the new grid.

    Returns:
        (1, 1 + side * side, D); `positions` itself if they are on that grid.
    """
    own = round((positions.shape[1] - 1) ** 0.5)
    if own == side:
        return positions
    grid = positions[:, 1:].unflatten(1, (own, own)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return torch.cat((positions[:, :1], grid.flatten(2).transpose(1, 2)), dim=1)


def save_mae_encoder(model: ViTMAEModel, folder: str | Path) -> Path:
    """Write an encoder and its image processor, whole or not at all; `ViTMAEModel.from_pretrained` opens the folder.

    The configuration says that nothing is masked: as an encoder it sees every patch, in transformers too.

    Raises:
        UserError: If the model holds adapters, or the folder exists and is something else.
    """
    require_merged(model)
    config = copy.deepcopy(model.config)
    config.architectures = ["ViTMAEModel"]
    config.mask_ratio = 0.0
    side: Any = config.image_size

    def write(beside: Path) -> None:
        config.save_pretrained(beside)
        ViTImageProcessor(
            size={"height": side, "width": side}, image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD
        ).save_pretrained(beside)
        # not the model's own save_pretrained, which draws a progress bar
        write_weights(model.state_dict(), beside / WEIGHT_FILES[0])

    return write_folder(Path(folder), write, is_encoder_folder)


def _with_positions(state: dict[str, Tensor], name: str, model: nn.Module) -> dict[str, Tensor]:
    """Return `state` with its position embeddings on the grid of `model`."""
    if name not in state or state[name].dim() != 3:
        return state
    side = round((model.get_parameter(name).shape[1] - 1) ** 0.5)
    return state | {name: resample_positions(state[name], side)}


def _check_positive(prefix: str, **sizes: int) -> None:
    """Check that sizes are at least 1."""
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"{prefix}{name}: {value}; must be at least 1")


def _check_width(name: str, width: int, num_heads: int) -> None:
    """Check that a width can be divided among heads and position embeddings."""
    # sines and cosines of two coordinates
    if width < 1 or width % 4 or width % num_heads:
        raise UserError(f"{name}: {width}; must be a multiple of 4 and of the {num_heads} heads")


def is_encoder_folder(folder: Path) -> bool:
    """Return whether `folder` holds such an encoder and nothing else, so that replacing it loses nobody's files."""
    needed = {CONFIG_FILE, WEIGHT_FILES[0]}
    # those of 0.1.0 have no image processor
    return folder.is_dir() and needed <= {path.name for path in folder.iterdir()} <= needed | {PREPROCESSOR_FILE}
