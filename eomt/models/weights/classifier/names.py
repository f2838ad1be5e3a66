"""What transformers' image classifiers are, and the names of their tensors.

They pool in one way each: a `ViTForImageClassification` gives its classifier the class token, a DINOv2 the class token
and the mean of the patches behind it. A DINOv2 takes any pooling from here: what it need not see has weights of zero.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from eomt.models.weights.renaming import RenamingTable

VIT, DINOV2, REGISTERS = "vit", "dinov2", "dinov2_with_registers"
MODEL_TYPES = (VIT, DINOV2, REGISTERS)
CLASSIFIER = "classifier."

# timm's names, and what transformers writes
EMBEDDINGS = """
cls_token              embeddings.cls_token
reg_token              embeddings.register_tokens
pos_embed              embeddings.position_embeddings
patch_embed.proj       embeddings.patch_embeddings.projection
norm                   layernorm
"""
BLOCK = """
blocks.#.attn.qkv      {0}.attention.q_proj + {0}.attention.k_proj + {0}.attention.v_proj
blocks.#.attn.proj     {0}.attention.o_proj
blocks.#.norm1         {0}.{1}
blocks.#.norm2         {0}.{2}
blocks.#.mlp.fc1       {0}.mlp.fc1
blocks.#.mlp.fc2       {0}.mlp.fc2
blocks.#.ls#.gamma     {0}.layer_scale#.lambda1
"""
OF_VIT = RenamingTable(EMBEDDINGS + BLOCK.format("layers.#", "layernorm_before", "layernorm_after"), strict=True)
OF_DINOV2 = RenamingTable(EMBEDDINGS + BLOCK.format("encoder.layer.#", "norm1", "norm2"), strict=True)


def to_hugging_face(backbone: Mapping[str, Tensor], model_type: str) -> dict[str, Tensor]:
    """Return the tensors of a timm ViT in the names of transformers' classifier.

    Args:
        backbone: Its state dict.
        model_type: Of `MODEL_TYPES`.
    """
    state = dict(backbone)
    if model_type == REGISTERS:
        # timm gives the class token of these no position
        positions = state["pos_embed"]
        state["pos_embed"] = torch.cat((torch.zeros_like(positions[:, :1]), positions), 1)
    renamed = (OF_VIT if model_type == VIT else OF_DINOV2).forwards(state)
    if model_type != VIT:
        renamed["embeddings.mask_token"] = torch.zeros_like(renamed["embeddings.cls_token"][0])
    return {f"{model_type}.{name}": value for name, value in renamed.items()}
