"""A cache of a frozen encoder's features, kept from one epoch to the next."""

import hashlib
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn

GIBIBYTE = 2**30


class FeatureCache:
    """A cache of tokens by the pixels of an image, on the CPU and in the precision in which they were computed.

    The images must not be augmented, or hardly one is met again. Images beyond the limit are encoded every time. Where
    the encoder has changed since the last call, or computes in another precision, everything is encoded anew.

    Args:
        limit: Memory in GiB; 0 keeps nothing.
    """

    def __init__(self, limit: float) -> None:
        self.limit = self.free = limit * GIBIBYTE
        self._tokens: dict[bytes, Tensor] = {}
        self._state: object = None

    def __len__(self) -> int:
        return len(self._tokens)

    def clear(self) -> None:
        """Forget everything, as where weights may have changed unseen by autograd (`parameter.data`)."""
        self._tokens, self.free = {}, self.limit

    @torch.no_grad()
    def tokens(self, images: Tensor, encoder: nn.Module, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the tokens of images, and encode only the images that are not in the cache.

        Args:
            images: Images, uint8 `(I, 3, H, W)`.
            encoder: What the tokens depend on beside the images.
            encode: Maps images to tokens, `(I, N, D)`, with that encoder.

        Returns:
            `(I, N, D)` on the device of `images`.
        """
        state = _state_of(encoder, images.device.type)
        if state != self._state:
            self.clear()
            self._state = state
        keys = [_key(image) for image in images.cpu()]
        unknown = [index for index, key in enumerate(keys) if key not in self._tokens]
        found: dict[int, Tensor] = {}
        if unknown:
            found = dict(zip(unknown, encode(images[unknown]), strict=True))
            for index, tokens in found.items():
                self._keep(keys[index], tokens)
        return torch.stack(
            [found[index] if index in found else self._tokens[key].to(images.device) for index, key in enumerate(keys)]
        )

    def _keep(self, key: bytes, tokens: Tensor) -> None:
        size = tokens.numel() * tokens.element_size()
        if size <= self.free and key not in self._tokens:
            self.free -= size
            # a copy, since a slice would keep the whole batch in memory
            self._tokens[key] = tokens.detach().to("cpu", copy=True)


def _key(image: Tensor) -> bytes:
    """Return what only images of the same size and pixels have in common: a file may change, its name stay."""
    return hashlib.blake2b(image.numpy().tobytes(), digest_size=16, salt=str(image.shape[1]).encode()).digest()


def _state_of(encoder: nn.Module, device: str) -> object:
    """Return what changes with the weights: where they are, how often they were written to, and the precision."""
    tensors = chain(encoder.parameters(), encoder.buffers())
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return precision, [(tensor.data_ptr(), tensor._version) for tensor in tensors]
