"""The mask decoder of SAM 2 (arXiv:2408.00714) with transformers' weights: only the masks that are asked for.

transformers computes all four masks, and copies fine features for each prompt; its sums are kept by adapted layers.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder, Sam2TwoWayAttentionBlock, Sam2TwoWayTransformer

from eomt.lora.sums import remade_sum
from eomt.models.parts.sam2_outputs import SAM2Features, SAM2Prediction

# of what the transformer returns first
OBJECT_TOKEN, IOU_TOKEN, FIRST_MASK_TOKEN = 0, 1, 2


class TwoWayBlock(GradientCheckpointingLayer):
    """A block in which tokens attend to themselves and to the image, and the image to the tokens.

    Args:
        block: transformers' block, whose modules become those of this one, under the same names.
    """

    def __init__(self, block: Sam2TwoWayAttentionBlock) -> None:
        super().__init__()
        for name, module in block.named_children():
            setattr(self, name, module)
        self.skip_first_layer_pe = block.skip_first_layer_pe
        self.train(block.training)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        query_point_embedding: Tensor,
        key_point_embedding: Tensor,
        attention_similarity: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens, image, and what the image has got from the tokens.

        Args:
            queries: Tokens, (B, N, T, D).
            keys: Image, (B N, 1, h w, D).
            query_point_embedding: Positions of the tokens, of their shape.
            key_point_embedding: Positions of the image, of its shape, or for all images.
            attention_similarity: Mask of the tokens' attention to the image.
        """
        modules = cast(Any, self)
        if self.skip_first_layer_pe:
            queries, _ = modules.self_attn(query=queries, key=queries, value=queries)
        else:
            query = remade_sum(queries, query_point_embedding)
            queries = queries + modules.self_attn(query=query, key=query, value=queries)[0]
        queries = modules.layer_norm1(queries)

        # the image is the same in both directions
        image = remade_sum(keys, key_point_embedding)
        found, _ = modules.cross_attn_token_to_image(
            query=remade_sum(queries, query_point_embedding),
            key=image,
            value=keys,
            attention_similarity=attention_similarity,
        )
        queries = modules.layer_norm2(queries + found)
        queries = modules.layer_norm3(queries + modules.mlp(queries))
        found, _ = modules.cross_attn_image_to_token(
            query=image, key=remade_sum(queries, query_point_embedding), value=queries
        )
        return queries, modules.layer_norm4(keys + found), found


def predict_masks(
    decoder: Sam2MaskDecoder,
    features: SAM2Features,
    positions: Tensor,
    sparse: Tensor,
    dense: Tensor,
    multimask: bool | None,
) -> SAM2Prediction:
    """Return masks of N prompts of each of B images.

    Args:
        decoder: With a `TwoWayBlock` in each place.
        features: Of B images.
        positions: Positions in the image, (1, D, h, w).
        sparse: Prompts as tokens, (B, N, T, D).
        dense: Prompts as maps, (B, N, D, h, w), or with 1 for B or N.
        multimask: Return the masks 1 to 3 instead of mask 0; None returns all four.
    """
    batch, count = sparse.shape[:2]
    height, width = features.embedding.shape[-2:]
    own = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(batch, count, -1, -1), sparse], 2).to(own.dtype)
    image = as_tokens(features.embedding)[:, None] + as_tokens(dense)
    image = image.expand(batch, count, -1, -1).reshape(batch * count, 1, height * width, -1)
    positions = as_tokens(positions)[:, None]  # (1, 1, h w, D)
    tokens, image = transform(decoder.transformer, tokens, image, positions)

    chosen = slice(None) if multimask is None else slice(1, None) if multimask else slice(0, 1)
    mask_tokens = tokens[:, :, FIRST_MASK_TOKEN : FIRST_MASK_TOKEN + decoder.num_mask_tokens]
    # all of them, so that those that are trained always have a gradient
    weights = [mlp(token) for mlp, token in zip(decoder.output_hypernetworks_mlps, mask_tokens.unbind(2), strict=True)]
    enlarged = enlarge(decoder, image.view(batch, count, height, width, -1), features)
    masks = enlarged.flatten(2, -2) @ torch.stack(weights, 3)[..., chosen].to(enlarged.dtype)  # (B, N, h w 16, M)
    # from the places in a token, row, column, row, column, to those in the mask
    masks = masks.unflatten(2, (height, width, 2, 2, 2, 2)).permute(0, 1, 8, 2, 4, 6, 3, 5, 7)
    return SAM2Prediction(
        masks.reshape(batch, count, -1, 4 * height, 4 * width),
        decoder.iou_prediction_head(tokens[:, :, IOU_TOKEN])[:, :, chosen],
        decoder.pred_obj_score_head(tokens[:, :, OBJECT_TOKEN]),
    )


def as_tokens(maps: Tensor) -> Tensor:
    """Return maps, (..., D, h, w), as tokens, (..., h w, D)."""
    return maps.flatten(-2).transpose(-1, -2)


def transform(
    transformer: Sam2TwoWayTransformer, tokens: Tensor, image: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return tokens, (B, N, T, D), and image, (B N, 1, h w, D), after the transformer; positions are the image's."""
    queries, keys = tokens, image
    for block in transformer.layers:
        queries, keys, _ = block(
            queries=queries, keys=keys, query_point_embedding=tokens, key_point_embedding=positions
        )
    found, _ = transformer.final_attn_token_to_image(
        query=remade_sum(queries, tokens), key=remade_sum(keys, positions), value=keys
    )
    return transformer.layer_norm_final_attn(queries + found), keys


def enlarge(decoder: Sam2MaskDecoder, image: Tensor, features: SAM2Features) -> Tensor:
    """Return features of four by four places for each token, (B, N, h, w, 2, 2, 2, 2, D / 8).

    A transposed convolution whose stride is the size of its kernel is a linear layer, with a value for each place in
    the kernel. What lies between two of them looks at one place at a time, so that places need not be in the order of
    the image.

    Args:
        decoder: With the layers.
        image: (B, N, h, w, D).
        features: Finer features of the images, which are added.
    """
    height, width = image.shape[2:4]
    # rows 2, columns 2: (B, D / 4, 2 h, 2 w) -> (B, 1, h, w, 2, 2, D / 4)
    fine = features.stride_8.unflatten(3, (width, 2)).unflatten(2, (height, 2)).permute(0, 2, 4, 3, 5, 1)[:, None]
    x = unfolded(decoder.upscale_conv1, image) + fine
    norm = decoder.upscale_layer_norm
    x = decoder.activation(nn.functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
    # rows 2 x 2, columns 2 x 2: (B, D / 8, 4 h, 4 w) -> (B, 1, h, w, 2, 2, 2, 2, D / 8)
    finest = features.stride_4.unflatten(3, (width, 2, 2)).unflatten(2, (height, 2, 2))
    return decoder.activation(unfolded(decoder.upscale_conv2, x) + finest.permute(0, 2, 5, 3, 6, 4, 7, 1)[:, None])


def unfolded(convolution: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Return what a transposed convolution makes of each place, (..., 2, 2, D'), of (..., D).

    Args:
        convolution: With stride and kernel of 2.
        x: Channels last.
    """
    weight = convolution.weight.permute(2, 3, 1, 0)  # (2, 2, D', D)
    bias = None if convolution.bias is None else convolution.bias.repeat(4)
    return nn.functional.linear(x, weight.flatten(0, 2), bias).unflatten(-1, weight.shape[:3])


def use_remade_sums(transformer: Sam2TwoWayTransformer) -> None:
    """Put a `TwoWayBlock` in the place of each of transformers' blocks; names of parameters stay."""
    for index, block in enumerate(transformer.layers):
        assert isinstance(block, Sam2TwoWayAttentionBlock)
        transformer.layers[index] = TwoWayBlock(block)
