"""What a frozen encoder says of an image, kept from one epoch to the next."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

GIBIBYTE = 2**30


class FeatureCache:
    """Tokens by the name of their image, in the CPU's memory and in the precision they were computed in.

    Only for an encoder that never changes and images that are never augmented. Images beyond the limit are encoded
    each time they are met.

    Args:
        limit: in GiB; 0 keeps nothing.
    """

    def __init__(self, limit: float) -> None:
        self.free = limit * GIBIBYTE
        self._tokens: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    @torch.no_grad()
    def tokens(self, names: Sequence[str], images: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Tokens of images, of which only those are encoded that are not known.

        Args:
            names: one for each image; "" is never kept.
            images: (I, 3, H, W).
            encode: images -> (I, N, D).

        Returns:
            (I, N, D) on the device of `images`.
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
            # a copy: a slice would keep the whole batch alive
            self._tokens[name] = tokens.detach().to("cpu", copy=True)
