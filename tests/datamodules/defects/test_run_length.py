import numpy as np
import pytest

from datamodules.defects.run_length import decode_runs, encode_runs
from eomt.errors import UserError


def paint(runs: list[tuple[int, int]], height: int, width: int) -> np.ndarray:
    """Decode pixel by pixel, as Kaggle describes it."""
    mask = np.zeros((height, width), dtype=bool)
    for start, length in runs:
        for pixel in range(start, start + length):
            mask[(pixel - 1) % height, (pixel - 1) // height] = True
    return mask


def random_runs(seed: int, height: int, width: int) -> list[tuple[int, int]]:
    random = np.random.default_rng(seed)
    starts = random.integers(1, height * width + 1, random.integers(1, 9)).tolist()
    return [(start, int(random.integers(1, height * width - start + 2))) for start in starts]


@pytest.mark.parametrize("seed", range(20))
def test_decoding_agrees_with_a_loop_over_pixels_for_runs_of_any_order_that_overlap(seed: int) -> None:
    height, width = 5, 13
    runs = random_runs(seed, height, width)
    text = " ".join(f"{start} {length}" for start, length in runs)
    decoded = decode_runs(text, (height, width), "table")
    assert (decoded.shape, decoded.dtype) == ((height, width), np.bool_)
    np.testing.assert_array_equal(decoded, paint(runs, height, width))


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_encoded_masks_come_back(density: float) -> None:
    mask = np.random.default_rng(0).random((256, 300)) < density
    text = encode_runs(mask)
    np.testing.assert_array_equal(decode_runs(text, (256, 300), "table"), mask)
    assert (text == "") == (density == 0)


def test_encoding_agrees_with_a_loop_over_pixels() -> None:
    mask = np.random.default_rng(1).random((7, 9)) < 0.4
    pixels = [number + 1 for number in range(mask.size) if mask[number % 7, number // 7]]
    runs: list[list[int]] = []
    for pixel in pixels:
        if runs and sum(runs[-1]) == pixel:
            runs[-1][1] += 1
        else:
            runs.append([pixel, 1])
    assert encode_runs(mask) == " ".join(f"{start} {length}" for start, length in runs)


def test_the_last_pixel_may_be_used_and_the_one_behind_it_not() -> None:
    assert np.argwhere(decode_runs("12 1", (3, 4), "table")).tolist() == [[2, 3]]
    with pytest.raises(UserError, match=r"^a\.csv: row 7: the run 11 3 ends at pixel 13, .* 3 x 4 .* has 12"):
        decode_runs("1 2 11 3", (3, 4), "a.csv: row 7")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "3 run values, an odd number"),
        ("0 2", "run value 0; starts count from 1"),
        ("3 0", "run value 0"),
        ("3 -2", "run value -2"),
        ("3 2.5", r"whole numbers .*'2\.5'"),
        ("3 99999999999999999999", "whole numbers"),
        ("9223372036854775807 9223372036854775807", "ends at pixel|run value"),
    ],
)
def test_bad_runs_are_refused_in_one_line_that_names_the_row(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        decode_runs(text, (256, 1600), "a.csv: row 7")
    assert str(caught.value).startswith("a.csv: row 7: ")
    assert "\n" not in str(caught.value)
