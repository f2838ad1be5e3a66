"""Two names for every tensor of SAM 2: those of the official `.pt` files and those of transformers."""

from collections.abc import Mapping

from torch import Tensor

from eomt.models.weights.renaming import RenamingTable

# One matrix, which transformers holds twice.
POSITIONS = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
POSITIONS_TWICE = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)
# One row each here, one table in transformers: background, foreground, a box's two corners.
POINTS = tuple(f"sam_prompt_encoder.point_embeddings.{label}.weight" for label in range(4))
POINT_TABLE = "prompt_encoder.point_embed.weight"

SHARED = f"""
{POSITIONS}  {" = ".join(POSITIONS_TWICE)}
{" + ".join(POINTS)}  {POINT_TABLE}
"""
IMAGE = """
no_mem_embed                                           no_memory_embedding
image_encoder.trunk.pos_embed                          vision_encoder.backbone.pos_embed
image_encoder.trunk.pos_embed_window                   vision_encoder.backbone.pos_embed_window
image_encoder.trunk.patch_embed.proj                   vision_encoder.backbone.patch_embed.projection
image_encoder.trunk.blocks.#.norm#                     vision_encoder.backbone.blocks.#.layer_norm#
image_encoder.trunk.blocks.#.attn.*                    vision_encoder.backbone.blocks.#.attn.*
image_encoder.trunk.blocks.#.mlp.layers.0              vision_encoder.backbone.blocks.#.mlp.proj_in
image_encoder.trunk.blocks.#.mlp.layers.1              vision_encoder.backbone.blocks.#.mlp.proj_out
image_encoder.trunk.blocks.#.proj                      vision_encoder.backbone.blocks.#.proj
image_encoder.neck.convs.#.conv                        vision_encoder.neck.convs.#
sam_prompt_encoder.not_a_point_embed                   prompt_encoder.not_a_point_embed
sam_prompt_encoder.no_mask_embed                       prompt_encoder.no_mask_embed
sam_prompt_encoder.mask_downscaling.0                  prompt_encoder.mask_embed.conv1
sam_prompt_encoder.mask_downscaling.1                  prompt_encoder.mask_embed.layer_norm1
sam_prompt_encoder.mask_downscaling.3                  prompt_encoder.mask_embed.conv2
sam_prompt_encoder.mask_downscaling.4                  prompt_encoder.mask_embed.layer_norm2
sam_prompt_encoder.mask_downscaling.6                  prompt_encoder.mask_embed.conv3
sam_mask_decoder.iou_token                             mask_decoder.iou_token
sam_mask_decoder.mask_tokens                           mask_decoder.mask_tokens
sam_mask_decoder.obj_score_token                       mask_decoder.obj_score_token
sam_mask_decoder.conv_s#                               mask_decoder.conv_s#
sam_mask_decoder.transformer.layers.#.norm#            mask_decoder.transformer.layers.#.layer_norm#
sam_mask_decoder.transformer.layers.#.mlp.layers.0     mask_decoder.transformer.layers.#.mlp.proj_in
sam_mask_decoder.transformer.layers.#.mlp.layers.1     mask_decoder.transformer.layers.#.mlp.proj_out
sam_mask_decoder.transformer.layers.#.*.q_proj         mask_decoder.transformer.layers.#.*.q_proj
sam_mask_decoder.transformer.layers.#.*.k_proj         mask_decoder.transformer.layers.#.*.k_proj
sam_mask_decoder.transformer.layers.#.*.v_proj         mask_decoder.transformer.layers.#.*.v_proj
sam_mask_decoder.transformer.layers.#.*.out_proj       mask_decoder.transformer.layers.#.*.o_proj
sam_mask_decoder.transformer.*.q_proj                  mask_decoder.transformer.*.q_proj
sam_mask_decoder.transformer.*.k_proj                  mask_decoder.transformer.*.k_proj
sam_mask_decoder.transformer.*.v_proj                  mask_decoder.transformer.*.v_proj
sam_mask_decoder.transformer.*.out_proj                mask_decoder.transformer.*.o_proj
sam_mask_decoder.transformer.norm_final_attn           mask_decoder.transformer.layer_norm_final_attn
sam_mask_decoder.output_upscaling.0                    mask_decoder.upscale_conv1
sam_mask_decoder.output_upscaling.1                    mask_decoder.upscale_layer_norm
sam_mask_decoder.output_upscaling.3                    mask_decoder.upscale_conv2
sam_mask_decoder.output_hypernetworks_mlps.#.layers.0  mask_decoder.output_hypernetworks_mlps.#.proj_in
sam_mask_decoder.output_hypernetworks_mlps.#.layers.1  mask_decoder.output_hypernetworks_mlps.#.layers.0
sam_mask_decoder.output_hypernetworks_mlps.#.layers.2  mask_decoder.output_hypernetworks_mlps.#.proj_out
sam_mask_decoder.*_head.layers.0                       mask_decoder.*_head.proj_in
sam_mask_decoder.*_head.layers.1                       mask_decoder.*_head.layers.0
sam_mask_decoder.*_head.layers.2                       mask_decoder.*_head.proj_out
"""
# Memory of the video model, which transformers keeps in Sam2VideoModel; SAM 2.1 has all of it.
MEMORY = """
maskmem_tpos_enc                                       memory_temporal_positional_encoding
no_mem_pos_enc                                         no_memory_positional_encoding
no_obj_ptr                                             no_object_pointer
no_obj_embed_spatial                                   occlusion_spatial_embedding_parameter
mask_downsample                                        mask_downsample
obj_ptr_tpos_proj                                      temporal_positional_encoding_projection_layer
obj_ptr_proj.layers.0                                  object_pointer_proj.proj_in
obj_ptr_proj.layers.1                                  object_pointer_proj.layers.0
obj_ptr_proj.layers.2                                  object_pointer_proj.proj_out
memory_attention.norm                                  memory_attention.layer_norm
memory_attention.layers.#.norm#                        memory_attention.layers.#.layer_norm#
memory_attention.layers.#.linear#                      memory_attention.layers.#.linear#
memory_attention.layers.#.*.q_proj                     memory_attention.layers.#.*.q_proj
memory_attention.layers.#.*.k_proj                     memory_attention.layers.#.*.k_proj
memory_attention.layers.#.*.v_proj                     memory_attention.layers.#.*.v_proj
memory_attention.layers.#.*.out_proj                   memory_attention.layers.#.*.o_proj
memory_encoder.pix_feat_proj                           memory_encoder.feature_projection
memory_encoder.out_proj                                memory_encoder.projection
memory_encoder.mask_downsampler.encoder.0              memory_encoder.mask_downsampler.layers.0.conv
memory_encoder.mask_downsampler.encoder.1              memory_encoder.mask_downsampler.layers.0.layer_norm
memory_encoder.mask_downsampler.encoder.3              memory_encoder.mask_downsampler.layers.1.conv
memory_encoder.mask_downsampler.encoder.4              memory_encoder.mask_downsampler.layers.1.layer_norm
memory_encoder.mask_downsampler.encoder.6              memory_encoder.mask_downsampler.layers.2.conv
memory_encoder.mask_downsampler.encoder.7              memory_encoder.mask_downsampler.layers.2.layer_norm
memory_encoder.mask_downsampler.encoder.9              memory_encoder.mask_downsampler.layers.3.conv
memory_encoder.mask_downsampler.encoder.10             memory_encoder.mask_downsampler.layers.3.layer_norm
memory_encoder.mask_downsampler.encoder.12             memory_encoder.mask_downsampler.final_conv
memory_encoder.fuser.layers.#.gamma                    memory_encoder.memory_fuser.layers.#.scale
memory_encoder.fuser.layers.#.norm                     memory_encoder.memory_fuser.layers.#.layer_norm
memory_encoder.fuser.layers.#.dwconv                   memory_encoder.memory_fuser.layers.#.depthwise_conv
memory_encoder.fuser.layers.#.pwconv#                  memory_encoder.memory_fuser.layers.#.pointwise_conv#
"""
# SAM 2 lacks these; SAM 2.1 has them.
ONLY_IN_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias")

TABLE = RenamingTable(SHARED + IMAGE + MEMORY, strict=True)
MEMORY_TABLE = RenamingTable(MEMORY)


def sam2_to_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict in official names in those of transformers.

    Raises:
        KeyError: For a name that SAM 2 has not, or if some of the four point embeddings are missing.
    """
    return TABLE.forwards(state)


def sam2_to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict in the names of transformers in official ones.

    Raises:
        KeyError: For a name that SAM 2 has not.
    """
    renamed = TABLE.backwards(state)
    # rows of a table would take the whole table into a file each
    return renamed | {name: renamed[name].clone() for name in POINTS if name in renamed}


def is_memory(name: str) -> bool:
    """Return whether a tensor, by either name, belongs to the memory of the video model."""
    return MEMORY_TABLE.holds(name)
