"""What a network with heads of its own asks of the encoder of its images."""

from abc import ABC, abstractmethod

from torch import Tensor

from eomt.models.network import Network


class TokenEncoder(Network, ABC):
    """An encoder that returns a token for each patch of an image, and others before them.

    Attributes:
        patch_size: Side of a patch in pixels.
    """

    patch_size: int

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """Width D of the tokens."""

    @property
    @abstractmethod
    def num_prefix_tokens(self) -> int:
        """Number of class and register tokens, which stand before the patch tokens, the class token first."""

    @property
    @abstractmethod
    def has_class_token(self) -> bool:
        """Whether the first token is a class token."""

    @abstractmethod
    def tokens(self, image: Tensor) -> Tensor:
        """Return the tokens after the last norm, (B, prefix + h * w, D).

        Args:
            image: RGB images, uint8 (0 to 255) or floating point (0 to 1), (B, 3, H, W).
        """
