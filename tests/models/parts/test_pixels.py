"""Normalization of pixels: bytes and floats, other colors, back to pictures, and what is saved of it."""

import pytest
import torch

from eomt.models.parts.pixels import PixelNormalization

IMAGE = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
MEAN, STD = (0.25, 0.5, 0.125), (0.5, 0.25, 0.375)


def test_bytes_and_floats_are_normalized_alike_by_channel() -> None:
    found = PixelNormalization(MEAN, STD)(IMAGE)
    for channel in range(3):
        expected = (IMAGE[:, channel].double() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(found[:, channel], expected.float())
    assert torch.equal(PixelNormalization(MEAN, STD)(IMAGE / 255), found)


def test_the_default_is_imagenets_and_other_colors_can_be_taken() -> None:
    normalize = PixelNormalization()
    assert normalize.colors == (pytest.approx((0.485, 0.456, 0.406)), pytest.approx((0.229, 0.224, 0.225)))
    normalize.set_colors(MEAN, STD)
    assert normalize.colors == (MEAN, STD)
    assert torch.equal(normalize(IMAGE), PixelNormalization(MEAN, STD)(IMAGE))


def test_pixels_become_the_image_again() -> None:
    normalize = PixelNormalization(MEAN, STD)
    assert torch.equal(normalize.invert(normalize(IMAGE)), IMAGE)
    assert normalize.invert(normalize(IMAGE).bfloat16()).dtype == torch.uint8


def test_nothing_of_it_is_saved_and_it_moves_with_its_network() -> None:
    normalize = PixelNormalization(MEAN, STD)
    assert not normalize.state_dict()
    assert not list(normalize.parameters())
    assert {buffer.dtype for buffer in normalize.double().buffers()} == {torch.float64}
