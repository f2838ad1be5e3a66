"""Weights of ViT-MAE as its authors keep them: one file, timm's names, query, key and value fused."""

import re
from collections.abc import Mapping

from torch import Tensor

# after the prefix of a block
BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
ENCODER_NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
# of the decoder, which keeps its names
DECODER_NAMES = ("mask_token", "decoder_pos_embed", "decoder_embed", "decoder_norm", "decoder_pred")
BLOCK = re.compile(r"(decoder_)?blocks\.(\d+)\.(.+)\.(weight|bias)")


def is_of_authors(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict has the authors' names."""
    return "cls_token" in state and "patch_embed.proj.weight" in state and "pos_embed" in state


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of encoder and decoder in transformers' names.

    Tensors that are none of these stay under their names, for the caller to refuse; the head of a fine-tuned encoder
    is left out.
    """
    encoder: dict[str, Tensor] = {}
    decoder: dict[str, Tensor] = {}
    for name, value in state.items():
        if block := BLOCK.fullmatch(name):
            part, number, inner, kind = block.groups()
            place, prefix = (decoder, "decoder_layers") if part else (encoder, "layers")
            if inner == "attn.qkv":
                for letter, piece in zip("qkv", value.chunk(3), strict=True):
                    place[f"{prefix}.{number}.attention.{letter}_proj.{kind}"] = piece.clone()
            else:
                place[f"{prefix}.{number}.{BLOCK_NAMES.get(inner, inner)}.{kind}"] = value
        elif name.startswith(DECODER_NAMES):
            decoder[name] = value
        elif not name.startswith(("head.", "fc_norm.")):
            stem, dot, kind = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "")
            encoder[ENCODER_NAMES.get(stem, stem) + dot + kind] = value
    return encoder, decoder
