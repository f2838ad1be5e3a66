"""Images that are parts of files of other kinds, such as annotations that hold their image."""

from abc import ABC, abstractmethod
from pathlib import Path


class ContainedImage(ABC):
    """An image inside a file; a value, so that it may travel to worker processes."""

    @property
    @abstractmethod
    def archive(self) -> Path:
        """The file that holds it."""

    @property
    def size(self) -> int:
        """Number of bytes of the image.

        Raises:
            UserError: The file is damaged.
        """
        return len(self.read())

    @abstractmethod
    def read(self) -> bytes:
        """Return the bytes of the image's own format.

        Raises:
            UserError: The file is damaged.
        """
