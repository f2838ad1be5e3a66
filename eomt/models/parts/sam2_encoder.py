"""The image encoder of SAM 2 (Hiera, Ryali et al., arXiv:2306.00989) with transformers' weights and less to do.

transformers pads the input of a window attention, so that its projections run over the padding too, and computes
another attention whose result it does not use. It cuts maps into windows and joins them again in every block, and its
neck makes positions that only the memory of the video model needs.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam2Model
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel, Sam2MultiScaleBlock

from eomt.lora.product import is_transformed
from eomt.models.parts.sam2_outputs import SAM2Features, pool_levels


class HieraBlock(GradientCheckpointingLayer):
    """A block of Hiera: attention inside of windows, or of everything, and an MLP.

    A window at the edge may reach beyond the map. There query, key and value of a padded place are those of a zero,
    which is the bias. So the map is padded behind the projection, and cropped before the next one.

    Args:
        block: transformers' block, whose modules become those of this one, under the same names.
    """

    def __init__(self, block: Sam2MultiScaleBlock) -> None:
        super().__init__()
        self.layer_norm1, self.attn, self.layer_norm2, self.mlp = (
            block.layer_norm1,
            block.attn,
            block.layer_norm2,
            block.mlp,
        )
        self.proj = block.proj if block.dim != block.dim_out else None
        self.window_size = block.window_size
        self.query_stride = block.query_stride
        self.train(block.training)

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """Return what follows from a map, (B, H, W, D); D may grow while H and W shrink."""
        normalized = self.layer_norm1(hidden_states)
        shortcut = hidden_states if self.proj is None else self._pooled(self.proj(normalized))
        hidden_states = shortcut + self._attend(normalized)
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window = (self.window_size, self.window_size) if self.window_size else (height, width)
        heads = self.attn.num_attention_heads
        query, key, value = split_windows(self.attn.qkv(x), self.attn.qkv.bias, window)
        query = self._pooled(query)
        rows, columns = query.shape[1:3]
        attended = F.scaled_dot_product_attention(
            *(part.flatten(1, 2).unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key, value))
        )
        stride = window[0] // rows
        attended = attended.transpose(1, 2).reshape(-1, rows, columns, query.shape[-1])
        return self.attn.proj(join_windows(attended, (height // stride, width // stride)))

    def _pooled(self, x: Tensor) -> Tensor:
        """Return maxima of places, (B, H', W', D), of a map, (B, H, W, D); the map where nothing is pooled."""
        if self.query_stride is None:
            return x
        return F.max_pool2d(x.permute(0, 3, 1, 2), self.query_stride).permute(0, 2, 3, 1)


def split_windows(qkv: Tensor, bias: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value of windows, (B windows, h, w, D) each, from those of a map.

    Args:
        qkv: (B, H, W, 3 D).
        bias: What places beyond the map have, (3 D,).
        window: Height and width, (h, w).
    """
    if is_transformed():
        return _split_at_once(qkv, bias, window)
    return Windows.apply(qkv, bias, window)


class Windows(torch.autograd.Function):
    """The operation of `split_windows`, whose gradients go to their places in one pass over them."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value."""
        ctx.shape, ctx.window, ctx.bias_dtype = qkv.shape, window, bias.dtype
        return _split(qkv, bias, window)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of the map and of the bias."""
        batch, height, width, channels = ctx.shape
        whole = grads[0].new_empty(batch, height, width, 3, channels // 3)
        beyond = torch.zeros(3, channels // 3, dtype=ctx.bias_dtype, device=whole.device)
        for place, grad in enumerate(grads):
            windows = by_place(grad, (height, width))
            for (down, across), (rows, columns) in places((height, width), ctx.window):
                window = windows[:, down.start // ctx.window[0], across.start // ctx.window[1]]
                whole[:, down, across, place] = window[:, :rows, :columns]
                if ctx.needs_input_grad[1]:
                    beyond[place] += window[:, rows:].sum((0, 1, 2)) + window[:, :rows, columns:].sum((0, 1, 2))
        return whole.view(ctx.shape), beyond.flatten() if ctx.needs_input_grad[1] else None, None


def _split(qkv: Tensor, bias: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    batch, height, width, channels = qkv.shape
    if (height, width) != window:
        count = -(-height // window[0]) * -(-width // window[1])
        found = qkv.new_empty(batch * count, *window, channels)
        windows = by_place(found, (height, width))
        for (down, across), (rows, columns) in places((height, width), window):
            into = windows[:, down.start // window[0], across.start // window[1]]
            into[:, :rows, :columns] = qkv[:, down, across]
            into[:, rows:] = into[:, :rows, columns:] = bias
        qkv = found
    query, key, value = qkv.chunk(3, -1)
    return query, key, value


def _split_at_once(qkv: Tensor, bias: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_split` does, without a step for each window, each of which would be one in a graph."""
    batch, height, width, channels = qkv.shape
    if (height, width) != window:
        below, beside = -height % window[0], -width % window[1]
        beyond = bias.to(qkv.dtype)
        qkv = torch.cat((qkv, beyond.expand(batch, height, beside, channels)), 2)
        qkv = torch.cat((qkv, beyond.expand(batch, below, width + beside, channels)), 1)
        qkv = cut(qkv, window)
    query, key, value = qkv.chunk(3, -1)
    return query, key, value


def by_place(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Return windows, (B windows, h, w, D), by their place in a map of (height, width), (B, down, across, h, w, D)."""
    rows, columns = windows.shape[1:3]
    return windows.unflatten(0, (-1, -(-size[0] // rows), -(-size[1] // columns)))


def places(size: tuple[int, int], window: tuple[int, int]) -> Iterator[tuple[tuple[slice, slice], tuple[int, int]]]:
    """Yield where each window lies in a map of height and width `size`, and its height and width inside of the map."""
    for top in range(0, size[0], window[0]):
        for left in range(0, size[1], window[1]):
            bottom, right = min(top + window[0], size[0]), min(left + window[1], size[1])
            yield (slice(top, bottom), slice(left, right)), (bottom - top, right - left)


def join_windows(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a map, (B, H, W, D), of its windows, (B windows, h, w, D), without what lies beyond it.

    Args:
        windows: Of all maps, row by row.
        size: Height and width of a map.
    """
    height, width = size
    rows, columns = windows.shape[1:3]
    if (rows, columns) == size:
        return windows
    down, across = -(-height // rows), -(-width // columns)
    windows = windows.reshape(-1, down, across, rows, columns, windows.shape[-1]).transpose(2, 3)
    return windows.reshape(-1, down * rows, across * columns, windows.shape[-1])[:, :height, :width]


class Stage(NamedTuple):
    """What a stage of the encoder returns."""

    windows: Tensor  # of the map, (B windows, h', w', D); the map itself, (B, h, w, D), where there are none
    size: tuple[int, int]  # of the map, (h, w)


def stages(backbone: Sam2HieraDetModel, pixels: Tensor) -> list[Stage]:
    """Return what the stages of the encoder return, from the finest to the coarsest.

    Outside of attention a block treats each place by itself. So where windows cover a map, they stay maps of their own
    from block to block, until a block has others.

    Args:
        backbone: With a `HieraBlock` in each place.
        pixels: Normalized images, (B, 3, H, W).
    """
    x = backbone.patch_embed(pixels)
    x = x + backbone._get_pos_embed(x.shape[1:3])
    size = (x.shape[1], x.shape[2])
    found = []
    for index, block in enumerate(backbone.blocks):
        assert isinstance(block, HieraBlock)
        window = block.window_size
        covers = bool(window) and size[0] % window == 0 and size[1] % window == 0
        layout = (window, window) if covers else size
        if layout != tuple(x.shape[1:3]):
            x = cut(join_windows(x, size), layout)
        before = x.shape[1]
        x = block(x)
        stride = before // x.shape[1]
        size = (size[0] // stride, size[1] // stride)
        if index in backbone.stage_ends:
            found.append(Stage(x, size))
    return found


def cut(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Return windows, (B windows, h, w, D), that cover a map, (B, H, W, D), without a rest."""
    batch, height, width, channels = x.shape
    rows, columns = window
    windows = x.reshape(batch, height // rows, rows, width // columns, columns, channels).transpose(2, 3)
    return windows.reshape(-1, rows, columns, channels)


def features_of(model: Sam2Model, found: Sequence[Stage], pools: bool) -> SAM2Features:
    """Return what the decoder needs of images.

    Args:
        model: With neck and decoder.
        found: The stages of the encoder.
        pools: Also return `pooled`, for which the neck's levels must be there; else those that the decoder reads
            through another convolution are not: the two are computed as one.
    """
    neck, decoder = model.vision_encoder.neck, model.mask_decoder
    last = len(found) - 1
    heads = {0: decoder.conv_s0, 1: decoder.conv_s1}
    levels: dict[int, Stage] = {}
    fine: dict[int, Tensor] = {}
    # from the coarsest, which is added to the next ones; the neck's convolutions are in this order, too
    for index in range(last, -1, -1):
        convolution, is_sum = neck.convs[last - index], index in neck.fpn_top_down_levels and index < last
        if index in heads and not is_sum and not pools:
            fine[index] = as_map(one_after_another(convolution, heads[index], found[index]))
            continue
        level = at_each_place(convolution, found[index])
        if is_sum:
            above = F.interpolate(as_map(levels[index + 1]).float(), scale_factor=2.0, mode="nearest")
            level = Stage(joined(level) + above.permute(0, 2, 3, 1).to(level.windows.dtype), level.size)
        levels[index] = level
        if index in heads:
            fine[index] = as_map(at_each_place(heads[index], level))
    embedding = as_map(levels[2])
    pooled = pool_levels([as_map(levels[index]) for index in (2, 1, 0)]) if pools else embedding.new_empty(0)
    return SAM2Features(
        embedding + model.no_memory_embedding.view(1, -1, 1, 1),
        fine[1],
        fine[0],
        pooled.view(embedding.shape[0], -1),
    )


def one_after_another(first: nn.Module, second: nn.Module, stage: Stage) -> Stage:
    """Return what two convolutions make of a stage; as one product where both look at one place at a time."""
    if not (is_pointwise(first) and is_pointwise(second)):
        return at_each_place(second, at_each_place(first, stage))
    weight, outer = first.weight.flatten(1), second.weight.flatten(1)
    bias = second.bias if first.bias is None else F.linear(first.bias, outer, second.bias)
    return Stage(F.linear(stage.windows, outer @ weight, bias), stage.size)


def at_each_place(convolution: nn.Module, stage: Stage) -> Stage:
    """Return what a convolution makes of a stage; as a product, which keeps no input, where it looks at one place."""
    if is_pointwise(convolution):
        return Stage(F.linear(stage.windows, convolution.weight.flatten(1), convolution.bias), stage.size)
    return Stage(convolution(as_map(stage)).permute(0, 2, 3, 1), stage.size)


def is_pointwise(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether a module is a plain convolution, without adapter, of one place at a time."""
    # a subclass may compute something else, a hook may look at it or change it
    plain = type(module) is nn.Conv2d and not (module._forward_hooks or module._forward_pre_hooks)
    return plain and module.kernel_size == module.stride == (1, 1) and module.padding == (0, 0)


def joined(stage: Stage) -> Tensor:
    """Return the map of a stage, (B, h, w, D)."""
    return join_windows(*stage)


def as_map(stage: Stage) -> Tensor:
    """Return the map of a stage with its channels first, (B, D, h, w)."""
    return joined(stage).permute(0, 3, 1, 2)


def use_lean_blocks(backbone: Sam2HieraDetModel) -> None:
    """Put a `HieraBlock` in the place of each of transformers' blocks; names of parameters stay."""
    for index, block in enumerate(backbone.blocks):
        assert isinstance(block, Sam2MultiScaleBlock)
        backbone.blocks[index] = HieraBlock(block)
