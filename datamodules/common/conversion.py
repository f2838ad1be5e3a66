"""How the values of images that are no RGB of 8 bits become the channels of a network: bands, range, page."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, FiniteFloat, TypeAdapter
from typing_extensions import TypedDict

from datamodules.common.contained import ContainedImage
from datamodules.common.opening import content_of
from datamodules.common.orientation import stored_size
from datamodules.common.values import read_values
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError, counted, shortened
from eomt.utils.reading import checked

# two values, or two percentiles such as p1-p99
Intensity = tuple[float, float] | str | None
PERCENTILES = re.compile(r"p(\d{1,3}(?:\.\d+)?)-p(\d{1,3}(?:\.\d+)?)")
WHITE = 255
# of an image as pictures show it
RGB = 3
MOST_CHANNELS = 1024


class ConversionFields(TypedDict, total=False):
    """The fields of a data module that say how stored values are read, as files hold them."""

    intensity: Annotated[list[FiniteFloat | int], Field(min_length=2, max_length=2)] | str | None
    channels: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=1024)] | None
    page: Annotated[int, Field(ge=0, lt=2**31)] | None


CONVERSION_FIELDS: TypeAdapter[ConversionFields] = TypeAdapter(ConversionFields)
FIELD_NAMES = ("intensity", "channels", "page")


@dataclass(frozen=True)
class Conversion:
    """Makes the channels of a network, 8 bits each, of stored values.

    Attributes:
        limits: The values that become black and white, or percentiles of each image; None keeps values of 8 bits.
        are_percentiles: Whether limits are percentiles.
        channels: Which band becomes each channel, the first three shown as red, green and blue; None takes the first
            three bands, or the only one for all.
        page: Which page of a file is read.
    """

    limits: tuple[float, float] | None = None
    are_percentiles: bool = False
    channels: tuple[int, ...] | None = None
    page: int | None = None

    @classmethod
    def of_fields(cls, intensity: Intensity, channels: list[int] | None, page: int | None) -> "Conversion | None":
        """Return what the fields of a data module say; None where they say nothing.

        Raises:
            UserError: A field has an impossible value.
        """
        limits = _limits(intensity)
        if channels is not None and (len(channels) in (0, 2) or len(channels) > MOST_CHANNELS or min(channels) < 0):
            raise UserError(
                f"channels: {channels}; give the three bands that become red, green and blue, from 0, or one, or more "
                "for a network with in_chans"
            )
        if page is not None and page < 0:
            raise UserError(f"page: {page}; pages count from 0")
        if limits is None and channels is None and page is None:
            return None
        bands = None if channels is None else tuple(channels) * (RGB if len(channels) == 1 else 1)
        return cls(limits, isinstance(intensity, str), bands, page)

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any], place: str) -> "Conversion | None":
        """Return what the arguments of a data module say, as a configuration or a record holds them; None for nothing.

        Args:
            settings: Arguments by name; those that say other things are passed over.
            place: Where they stand, for messages.

        Raises:
            UserError: A field has an impossible value.
        """
        given = {name: settings[name] for name in FIELD_NAMES if settings.get(name) is not None}
        if isinstance(given.get("intensity"), tuple):
            given["intensity"] = list(given["intensity"])
        found = checked(given, CONVERSION_FIELDS, place, "give it as in training")
        intensity = found.get("intensity")
        limits = (intensity[0], intensity[1]) if isinstance(intensity, list) else intensity
        return cls.of_fields(limits, found.get("channels"), found.get("page"))

    @property
    def num_channels(self) -> int:
        """Number of channels that come out."""
        return RGB if self.channels is None else len(self.channels)

    def applied(self, values: np.ndarray, path: object) -> np.ndarray:
        """Return values (H, W, bands) as channels, (H, W, C) uint8, the first three red, green and blue.

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

    def _bands(self, count: int, path: object) -> list[int]:
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
    """An image file and how its values become channels."""

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
        """Return the image's channels, turned as its orientation says, (H, W, C) uint8.

        Raises:
            UserError: The file is damaged, or has not the bands, the page or the range that are asked for.
        """
        return self.conversion.applied(read_values(self.file, self.conversion.page)[0], self.file)

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
