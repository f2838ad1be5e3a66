"""Names of SAM 2's tensors: the official ones, and there and back."""

import pytest
import torch
from transformers import Sam2VideoConfig, Sam2VideoModel

from eomt.models.weights.sam2.config import Size, sam2_config
from eomt.models.weights.sam2.load import original_shapes
from eomt.models.weights.sam2.names import (
    ONLY_IN_2_1,
    TABLE,
    sam2_to_hugging_face,
    sam2_to_official,
)
from tests.tiny_sam2 import original_state

# As instantiated by the official code: tensors of SAM 2 and 2.1, values of SAM 2.1.
OFFICIAL: dict[Size, tuple[int, int, int]] = {
    "tiny": (468, 471, 38_962_754),
    "small": (516, 519, 46_060_610),
    "base_plus": (612, 615, 80_850_434),
    "large": (900, 903, 224_446_898),
}
# Names and shapes as the official code has them, of the large size.
KNOWN = {
    "image_encoder.trunk.pos_embed": [1, 144, 7, 7],
    "image_encoder.trunk.pos_embed_window": [1, 144, 8, 8],
    "image_encoder.trunk.patch_embed.proj.weight": [144, 3, 7, 7],
    "image_encoder.trunk.blocks.0.norm1.weight": [144],
    "image_encoder.trunk.blocks.0.attn.qkv.weight": [432, 144],
    "image_encoder.trunk.blocks.2.proj.weight": [288, 144],
    "image_encoder.trunk.blocks.47.mlp.layers.1.bias": [1152],
    "image_encoder.neck.convs.0.conv.weight": [256, 1152, 1, 1],
    "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": [2, 128],
    "sam_prompt_encoder.point_embeddings.3.weight": [1, 256],
    "sam_prompt_encoder.mask_downscaling.4.weight": [16],
    "sam_prompt_encoder.mask_downscaling.6.weight": [256, 16, 1, 1],
    "sam_mask_decoder.transformer.layers.0.self_attn.q_proj.weight": [256, 256],
    "sam_mask_decoder.transformer.layers.1.cross_attn_image_to_token.out_proj.weight": [256, 128],
    "sam_mask_decoder.transformer.layers.1.mlp.layers.0.weight": [2048, 256],
    "sam_mask_decoder.transformer.final_attn_token_to_image.v_proj.bias": [128],
    "sam_mask_decoder.transformer.norm_final_attn.weight": [256],
    "sam_mask_decoder.output_upscaling.3.weight": [64, 32, 2, 2],
    "sam_mask_decoder.output_hypernetworks_mlps.0.layers.0.weight": [256, 256],
    "sam_mask_decoder.output_hypernetworks_mlps.3.layers.2.weight": [32, 256],
    "sam_mask_decoder.iou_prediction_head.layers.0.weight": [256, 256],
    "sam_mask_decoder.iou_prediction_head.layers.2.bias": [4],
    "sam_mask_decoder.pred_obj_score_head.layers.1.bias": [256],
    "no_mem_embed": [1, 1, 256],
    "maskmem_tpos_enc": [7, 1, 1, 64],
    "no_obj_ptr": [1, 256],
    "memory_attention.layers.3.cross_attn_image.k_proj.weight": [256, 64],
    "memory_attention.norm.weight": [256],
    "memory_encoder.mask_downsampler.encoder.10.weight": [256],
    "memory_encoder.fuser.layers.1.gamma": [256],
    "obj_ptr_proj.layers.2.weight": [256, 256],
}


@pytest.mark.parametrize("size", OFFICIAL)
def test_names_and_shapes_are_the_official_ones(size: Size) -> None:
    image, memory = original_shapes(size)
    of_2, of_2_1, values = OFFICIAL[size]
    assert len(image | memory) == of_2_1
    assert len(set(image | memory) - set(ONLY_IN_2_1)) == of_2
    assert sum(shape.numel() for shape in (image | memory).values()) == values
    if size == "large":
        assert {name: list((image | memory)[name]) for name in KNOWN} == KNOWN


@pytest.mark.parametrize("version", ["2", "2.1"])
@pytest.mark.parametrize("size", OFFICIAL)
def test_names_there_and_back_are_the_same_bits(size: Size, version: str) -> None:
    state = original_state(size, version)
    renamed = sam2_to_hugging_face(state)
    # the four points become one table, the one position matrix two
    assert len(renamed) == len(state) - 2
    back = sam2_to_official(renamed)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)
    with torch.device("meta"):
        own = {name: value.shape for name, value in Sam2VideoModel(video_config(size)).state_dict().items()}
    missing = set() if version == "2.1" else {name for name in own if name not in renamed}
    assert {name: value.shape for name, value in renamed.items()} == {n: s for n, s in own.items() if n not in missing}
    assert len(missing) == (0 if version == "2.1" else len(ONLY_IN_2_1))


def video_config(size: Size) -> Sam2VideoConfig:
    return Sam2VideoConfig(vision_config=sam2_config(size).vision_config)


def test_each_name_is_renamed_by_one_row_of_the_table() -> None:
    image, memory = original_shapes("tiny")
    names = set(image | memory)
    renamed = sam2_to_hugging_face({name: torch.zeros(1) for name in names})
    for side, some in ((0, names), (1, set(renamed))):
        for name in some:
            assert sum(row[side].find(name) is not None for row in TABLE.rows) == 1, name
