"""Component metrics against sets of pixels."""

import numpy as np
import pytest

from eomt.metrics.components import NO_COMPONENTS, ComponentSizes, count_components

Pixel = tuple[int, int]


def components(pixels: set[Pixel]) -> list[set[Pixel]]:
    """8-connected parts, by walking from pixel to pixel."""
    left, found = set(pixels), []
    while left:
        component, edge = set(), [left.pop()]
        while edge:
            row, column = edge.pop()
            component.add((row, column))
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            edge += around
        found.append(component)
    return found


def expected(
    images: list[tuple[np.ndarray, np.ndarray]], sizes: ComponentSizes
) -> tuple[list[float], list[float], float]:
    """sIoU of each true and PPV of each predicted component, and F1*."""
    siou, ppv = [], []
    for predicted, truth in images:
        ignored = set(zip(*np.nonzero(truth == 255), strict=True))
        true = components(set(zip(*np.nonzero(truth == 1), strict=True)))
        found = components(set(zip(*np.nonzero(predicted), strict=True)) - ignored)
        found = [component for component in found if len(component) >= sizes.predicted]
        for component in true:
            if len(component) < sizes.true:
                ignored |= component
        true = [component for component in true if len(component) >= sizes.true]
        found = [component - ignored for component in found if component - ignored]
        for component in true:
            touching = set().union(*(other for other in found if other & component))
            others = set().union(*(other for other in true if other is not component))
            siou.append(len(component & touching) / len(component | (touching - others)))
        ppv += [len(component & set().union(*true)) / len(component) for component in found]
    scores = []
    for threshold in np.linspace(0.25, 0.75, 11):
        hits, false = sum(x >= threshold for x in siou), sum(x < threshold for x in ppv)
        scores.append(2 * hits / (2 * hits + (len(siou) - hits) + false))
    return siou, ppv, float(np.mean(scores))


def make_images(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Blobs that overlap more or less, some ignored."""
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(4):
        truth, predicted = np.zeros((24, 30), dtype=np.uint8), np.zeros((24, 30), dtype=bool)
        for _ in range(5):
            row, column, height, width = generator.integers([0, 0, 1, 1], [20, 26, 8, 8])
            truth[row : row + height, column : column + width] = 1
            row, column = generator.integers(-2, 3, 2) + (row, column)
            predicted[max(row, 0) : row + height, max(column, 0) : column + width] = True
        row, column = generator.integers(0, [20, 26])
        truth[row : row + 4, column : column + 4] = 255
        images.append((predicted, truth))
    return images


@pytest.mark.parametrize("sizes", [(1, 1), (8, 1), (1, 8), (12, 6)])
@pytest.mark.parametrize("seed", range(4))
def test_components_are_compared_as_sets_of_pixels(seed: int, sizes: tuple[int, int]) -> None:
    images = make_images(seed)
    total = NO_COMPONENTS
    for predicted, truth in images:
        total = total.plus(count_components(predicted, truth, ComponentSizes(*sizes)))
    siou, ppv, f1 = expected(images, ComponentSizes(*sizes))
    assert (total.num_true, total.num_predicted) == (len(siou), len(ppv))
    assert total.figures() == pytest.approx({"siou": np.mean(siou), "ppv": np.mean(ppv), "f1": f1})


def test_a_perfect_prediction_is_perfect_and_none_finds_nothing() -> None:
    truth = np.zeros((20, 20), dtype=np.uint8)
    truth[2:8, 2:8] = truth[12:18, 12:18] = 1
    perfect = count_components(truth == 1, truth, ComponentSizes(1, 1))
    assert perfect.num_true == 2
    assert perfect.figures() == {"siou": 1.0, "ppv": 1.0, "f1": 1.0}
    nothing = count_components(np.zeros_like(truth, dtype=bool), truth, ComponentSizes(1, 1)).figures()
    assert nothing["siou"] == nothing["f1"] == 0
    assert np.isnan(nothing["ppv"])


def test_corners_connect_and_what_covers_two_true_components_is_not_blamed_for_the_other() -> None:
    truth = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]], dtype=np.uint8)
    counts = count_components(truth == 1, truth, ComponentSizes(1, 1))
    assert (counts.num_true, counts.num_predicted) == (2, 2)
    # one predicted component over both: of the first 2 of 2 + 8 - 2, since 2 of its pixels are the other's
    counts = count_components(np.ones_like(truth, dtype=bool), truth, ComponentSizes(1, 1))
    assert counts.siou == pytest.approx(2 * 2 / 10)
    assert counts.ppv == pytest.approx(4 / 12)


def test_ignored_pixels_are_no_part_of_a_prediction() -> None:
    truth = np.zeros((10, 10), dtype=np.uint8)
    truth[:4, :4], truth[5:] = 1, 255
    predicted = truth > 0
    assert count_components(predicted, truth, ComponentSizes(1, 1)).figures() == {"siou": 1.0, "ppv": 1.0, "f1": 1.0}


def test_no_components_at_all_have_no_figures() -> None:
    figures = NO_COMPONENTS.figures()
    assert all(np.isnan(value) for value in figures.values())
