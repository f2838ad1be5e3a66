"""Checks of fields that several data modules have."""

from collections.abc import Sequence

from eomt.errors import UserError, shortened


def check_at_least(**fields: tuple[int, int]) -> None:
    """Raise a UserError for the first field whose value is below the least one, both given under its name."""
    for field, (value, least) in fields.items():
        if value < least:
            raise UserError(f"{field}: {value}; must be at least {least}")


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raise a UserError unless these leave something to train on."""
    if not (0 < val_fraction < 1 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise UserError(
            f"val_fraction, test_fraction: {val_fraction}, {test_fraction}; "
            "val must be above 0, test at least 0, their sum below 1"
        )


def check_shares(**fields: float | None) -> None:
    """Raise a UserError for the first field that is given, and no share of the images."""
    for field, share in fields.items():
        if share is not None and not 0 < share <= 1:
            raise UserError(f"{field}: {share}; a share of the images is above 0 and at most 1")


def check_scale_range(scale_range: tuple[float, float]) -> None:
    """Raise a UserError unless this is a range of scales."""
    if not 0 < scale_range[0] <= scale_range[1]:
        raise UserError(f"scale_range: {scale_range}; give the smaller scale first, above 0")


def check_class_names(class_names: list[str] | None) -> None:
    """Raise a UserError unless names differ and can stand beside "images" in the counts of a split."""
    for name in class_names or []:
        if not name or name == "images" or (class_names or []).count(name) > 1:
            raise UserError(f"class_names: {shortened(name)!r}; names must differ, and be neither empty nor 'images'")


def given_size(name: str, size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Return a field's size as height and width; None where it is null.

    Args:
        name: Of the field.
        size: Both, or one number for a square.

    Raises:
        UserError: It is below 1 pixel.
    """
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise UserError(f"{name}: {[height, width]}; must be at least 1 pixel each way")
    return height, width


def as_size(img_size: int | tuple[int, int] | None, default: int) -> tuple[int, int]:
    """Return an image size as height and width.

    Args:
        img_size: Both, or one number for a square; None for a square of `default`.
        default: Pixels.

    Raises:
        UserError: It is below 1 pixel.
    """
    return given_size("img_size", img_size) or (default, default)
