"""A cache of a frozen encoder's features, kept from one epoch to the next."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

GIBIBYTE = 2**30


class FeatureCache:
    """A cache of tokens by image name, on the CPU and in the precision in which they were computed.

    The encoder must never change, and the images must not be augmented. Images beyond the limit are encoded every time.

    Args:
        limit: Memory in GiB; 0 keeps nothing.
    """

    def __init__(self, limit: float) -> None:
        self.free = limit * GIBIBYTE
        self._tokens: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    @torch.no_grad()
    def tokens(self, names: Sequence[str], images: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the tokens of images, and encode only the images that are not in the cache.

        Args:
            names: A name for each image; an image named "" is never kept.
            images: uint8 `(I, 3, H, W)`.
            encode: Maps images to tokens, `(I, N, D)`.

        Returns:
            `(I, N, D)` on the device of `images`.
        """
        unknown = [index for index, name in enumerate(names) if name not in self._tokens]
        found: dict[int, Tensor] = {}
        if unknown:
            found = dict(zip(unknown, encode(images[unknown]), strict=True))
            for index, tokens in found.items():
                self._keep(names[index], tokens)
        return torch.stack(
            [
                found[index] if index in found else self._tokens[name].to(images.device)
                for index, name in enumerate(names)
            ]
        )

    def _keep(self, name: str, tokens: Tensor) -> None:
        size = tokens.numel() * tokens.element_size()
        if name and size <= self.free:
            self.free -= size
            # a copy, since a slice would keep the whole batch in memory
            self._tokens[name] = tokens.detach().to("cpu", copy=True)
