"""Weights in 8 or 4 bits: how a matrix is packed into bytes, and made again of them.

int8 takes one scale for each output: W = s c with s = max |W| / 127 of its row, and whole numbers c. nf4 (QLoRA,
Dettmers et al., arXiv:2305.14314) takes one for each 64 values in the order of memory: W = s q[c] with s = max |W|, and
the 16 numbers q, which normally distributed weights fall on equally often. Scales are fp32: 4.5 bits a value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Quantization = Literal["int8", "nf4"]
KINDS: tuple[Quantization, ...] = get_args(Quantization)
BLOCK = 64
# share of the normal distribution below the largest of the 16 numbers: 1 - (1 / 32 + 1 / 30) / 2, as in QLoRA
OUTERMOST = 1 - (1 / 32 + 1 / 30) / 2
LARGEST = 127


def _normal_floats() -> Tensor:
    """Return the 16 numbers of nf4 from -1 to 1: quantiles of the normal distribution, 8 above zero and 7 below."""
    above = torch.special.ndtri(torch.linspace(0.5, OUTERMOST, 9, dtype=torch.float64, device="cpu"))
    below = -torch.special.ndtri(torch.linspace(0.5, OUTERMOST, 8, dtype=torch.float64, device="cpu"))
    return (torch.cat([below.flip(0)[:-1], above]) / above[-1]).float()


NORMAL_FLOATS = _normal_floats()
# the two numbers of each byte, (256,): an int64 holds the bits of two float32, which are read at once; Apple's GPUs
# have no float64
_PAIRS = torch.stack([NORMAL_FLOATS.repeat_interleave(16), NORMAL_FLOATS.repeat(16)], 1).flatten().view(torch.int64)
_on_device: dict[torch.device, Tensor] = {_PAIRS.device: _PAIRS}


def _pairs(device: torch.device) -> Tensor:
    if device not in _on_device:
        _on_device[device] = _PAIRS.to(device)
    return _on_device[device]


@dataclass(frozen=True)
class Packing:
    """How a weight is packed: scales first, then codes, in one tensor of bytes, which no cast of a network changes.

    Attributes:
        kind: int8 or nf4.
        shape: Shape of the weight, (out, in).
    """

    kind: Quantization
    shape: tuple[int, int]

    @property
    def numel(self) -> int:
        """Number of values of the weight."""
        return self.shape[0] * self.shape[1]

    @property
    def num_scales(self) -> int:
        """Number of its scales."""
        return self.shape[0] if self.kind == "int8" else -(-self.numel // BLOCK)

    def pack(self, weight: Tensor) -> Tensor:
        """Return a weight, (out, in), as bytes, each value as the nearest that there is."""
        values = weight.detach().float()
        scales, codes = self._int8(values) if self.kind == "int8" else self._nf4(values)
        return torch.cat([scales.view(torch.uint8), codes])

    def unpack(self, packed: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the weight, (out, in), that bytes stand for, computed in fp32."""
        split = 4 * self.num_scales
        scales, codes = packed[:split].view(torch.float32)[:, None], packed[split:]
        if self.kind == "int8":
            return codes.view(torch.int8).view(self.shape).float().mul_(scales).to(dtype)
        values = _pairs(packed.device).index_select(0, codes.int()).view(torch.float32)
        return values.view(-1, BLOCK).mul_(scales).flatten()[: self.numel].view(self.shape).to(dtype)

    def _int8(self, values: Tensor) -> tuple[Tensor, Tensor]:
        scales = values.abs().amax(1) / LARGEST
        codes = (values / _not_zero(scales)[:, None]).round_().to(torch.int8)
        return scales, codes.flatten().view(torch.uint8)

    def _nf4(self, values: Tensor) -> tuple[Tensor, Tensor]:
        blocks = F.pad(values.flatten(), (0, -self.numel % BLOCK)).view(-1, BLOCK)
        scales = blocks.abs().amax(1)
        numbers = NORMAL_FLOATS.to(values.device)
        between = (numbers[1:] + numbers[:-1]) / 2
        codes = torch.bucketize(blocks / _not_zero(scales)[:, None], between, out_int32=True).to(torch.uint8)
        first, second = codes.view(-1, 2).unbind(1)
        return scales, first * 16 + second


def _not_zero(scales: Tensor) -> Tensor:
    """Return scales with 1 in the place of 0, where all values are 0 anyway."""
    return torch.where(scales > 0, scales, 1.0)


def matrix_of(packing: Packing | None) -> Callable[[Tensor, torch.dtype], Tensor]:
    """Return what makes a matrix of some dtype of a weight, which is packed or, with None, is one."""
    return Tensor.to if packing is None else packing.unpack
