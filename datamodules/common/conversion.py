"""How the values of images that are no RGB of 8 bits become one: bands, range, page."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.common.contained import ContainedImage
from datamodules.common.opening import content_of
from datamodules.common.orientation import stored_size
from datamodules.common.values import read_values
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError, counted, shortened

# two values, or two percentiles such as p1-p99
Intensity = tuple[float, float] | str | None
PERCENTILES = re.compile(r"p(\d{1,3}(?:\.\d+)?)-p(\d{1,3}(?:\.\d+)?)")
WHITE = 255


@dataclass(frozen=True)
class Conversion:
    """Makes RGB of 8 bits of stored values.

    Attributes:
        limits: The values that become black and white, or percentiles of each image; None keeps values of 8 bits.
        are_percentiles: Whether limits are percentiles.
        channels: Which band becomes red, green and blue; None takes the first three, or the only one for all.
        page: Which page of a file is read.
    """

    limits: tuple[float, float] | None = None
    are_percentiles: bool = False
    channels: tuple[int, int, int] | None = None
    page: int | None = None

    @classmethod
    def of_fields(cls, intensity: Intensity, channels: list[int] | None, page: int | None) -> "Conversion | None":
        """Return what the fields of a data module say; None where they say nothing.

        Raises:
            UserError: A field has an impossible value.
        """
        limits = _limits(intensity)
        if channels is not None and (len(channels) not in (1, 3) or min(channels) < 0):
            raise UserError(
                f"channels: {channels}; give the three bands that become red, green and blue, from 0, or one"
            )
        if page is not None and page < 0:
            raise UserError(f"page: {page}; pages count from 0")
        if limits is None and channels is None and page is None:
            return None
        bands = None if channels is None else (channels[0], channels[len(channels) // 2], channels[-1])
        return cls(limits, isinstance(intensity, str), bands, page)

    def rgb(self, values: np.ndarray, path: ImageFile) -> np.ndarray:
        """Return values (H, W, C) as RGB, (H, W, 3) uint8.

        Raises:
            UserError: They have not these bands, or more than 8 bits and no range; `path` is named.
        """
        bands = self._bands(values.shape[2], path)
        chosen = values[..., bands]
        if self.limits is None:
            if chosen.dtype != np.uint8:
                raise UserError(
                    f"{path}: values of {chosen.dtype}, {chosen.min()} to {chosen.max()}; say which become black and "
                    "white, such as intensity: [0, 4095] or intensity: p1-p99"
                )
            return np.ascontiguousarray(chosen)
        low, high = self.limits
        if self.are_percentiles:
            # each band once
            known = values[..., sorted(set(bands))].astype(np.float64)
            known = known[np.isfinite(known)]
            low, high = np.percentile(known, self.limits).tolist() if known.size else (0.0, 1.0)
        # an image of one value is black
        scaled = (chosen.astype(np.float32) - low) / ((high - low) or 1.0)
        return (np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * WHITE).round().astype(np.uint8)

    def _bands(self, count: int, path: ImageFile) -> list[int]:
        if self.channels is not None:
            if max(self.channels) >= count:
                raise UserError(
                    f"{path}: has {counted(count, 'band')}, but channels is {list(self.channels)}; bands count from 0"
                )
            return list(self.channels)
        if count > 4:
            raise UserError(
                f"{path}: has {count} bands; say which become red, green, blue, such as channels: [2, 1, 0]"
            )
        # what follows gray or RGB is opacity
        return [0, 1, 2] if count >= 3 else [0, 0, 0]


@dataclass(frozen=True)
class ConvertedImage(ContainedImage):
    """An image file and how its values become RGB."""

    file: ImageFile
    conversion: Conversion

    def __str__(self) -> str:
        return str(self.file)

    @property
    def archive(self) -> Path:
        """The file, or the one that holds it."""
        return self.file if isinstance(self.file, Path) else self.file.archive

    @property
    def size(self) -> int:
        """Number of bytes of the file."""
        return self.file.stat().st_size if isinstance(self.file, Path) else self.file.size

    def read(self) -> bytes:
        """Return the bytes of the file."""
        return content_of(self.file)

    def pixels(self) -> np.ndarray:
        """Return the image as RGB, turned as its orientation says, (H, W, 3) uint8.

        Raises:
            UserError: The file is damaged, or has not the bands, the page or the range that are asked for.
        """
        return self.conversion.rgb(read_values(self.file, self.conversion.page)[0], self.file)

    def stored(self) -> tuple[tuple[int, int], int]:
        """Return height and width of the pixels in the file, and its orientation.

        Raises:
            UserError: The file is damaged.
        """
        values, orientation = read_values(self.file, self.conversion.page)
        return stored_size((values.shape[0], values.shape[1]), orientation), orientation


def _limits(intensity: Intensity) -> tuple[float, float] | None:
    if intensity is None:
        return None
    if isinstance(intensity, str):
        found = PERCENTILES.fullmatch(intensity.strip())
        low, high = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
        if not 0 <= low < high <= 100:
            raise UserError(
                f"intensity: {shortened(intensity)!r}; give two values, [0, 4095], or percentiles of each image, p1-p99"
            )
        return low, high
    low, high = intensity
    # also where one is NaN
    if not low < high:
        raise UserError(f"intensity: {[low, high]}; give the value that becomes black, then the one that becomes white")
    return low, high
