"""The best and the worst of a test: kept in any order, bounded, and drawn only where they may be shown."""

import random

import pytest
import torch
from PIL import Image

from callbacks.results.best_and_worst import MOST_WIDTH, BestAndWorst, Candidate, Drawn, jpeg
from callbacks.results.candidates import image_iou, sheet_of


def offered(figures: dict[str, float], number: int) -> tuple[list[str], list[str], int]:
    """Names of the best and the worst, and how many were drawn."""
    drawn: list[str] = []

    def candidate(name: str) -> Candidate:
        def draw() -> Drawn:
            drawn.append(name)
            return Drawn(Image.new("RGB", (4, 4)), [name])

        return Candidate(name, figures[name], draw)

    kept = BestAndWorst(number)
    for name in figures:
        kept.offer(candidate(name))
    best, worst = kept.gathered()
    assert all(example.lines == [example.name] for example in [*best, *worst])
    return [example.name for example in best], [example.name for example in worst], len(drawn)


def test_the_best_and_the_worst_of_many_are_kept() -> None:
    names = [f"{number:04}" for number in range(1000)]
    random.shuffle(names)
    best, worst, drawn = offered({name: int(name) / 1000 for name in names}, 3)
    assert best == ["0999", "0998", "0997"]
    assert worst == ["0000", "0001", "0002"]
    # of a thousand in random order some forty come close
    assert drawn < 100


def test_no_order_changes_which_of_equals_are_kept() -> None:
    names = [f"{number}" for number in range(50)]
    figures = {name: float(int(name) % 2) for name in names}
    found = offered(figures, 4)[:2]
    for _ in range(5):
        random.shuffle(names)
        assert offered({name: figures[name] for name in names}, 4)[:2] == found


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_of_few_images_none_is_shown_twice(count: int) -> None:
    best, worst, _ = offered({f"{number}": number / 10 for number in range(count)}, 4)
    assert sorted([*best, *worst]) == [f"{number}" for number in range(count)]
    # equal figures too
    best, worst, _ = offered({f"{number}": 1.0 for number in range(count)}, 4)
    assert sorted([*best, *worst]) == [f"{number}" for number in range(count)]


def test_a_name_of_no_text_is_kept_like_another() -> None:
    assert offered({"a\udce9": 1.0, "b": 0.0}, 1)[:2] == (["a\udce9"], ["b"])


def test_pictures_are_shrunk() -> None:
    large, small = Image.effect_noise((4 * MOST_WIDTH, 400), 50), Image.new("RGB", (10, 10))
    assert len(jpeg(large)) < 60_000
    assert jpeg(small)


@pytest.mark.parametrize("has_background", [False, True])
def test_the_iou_of_an_image_is_the_mean_over_its_classes(has_background: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (9, 11), generator=generator)
    prediction = torch.randint(0, 5, (9, 11), generator=generator)
    truth[:3] = 255
    known = [(int(t), int(p)) for t, p in zip(truth.flatten(), prediction.flatten(), strict=True) if t != 255]
    ious = []
    for index in range(int(has_background), 5):
        both = sum(t == index and p == index for t, p in known)
        either = sum(t == index or p == index for t, p in known)
        ious += [both / either] if either else []
    assert image_iou(prediction, truth, has_background) == pytest.approx(sum(ious) / len(ious))


def test_an_image_without_a_class_has_no_iou() -> None:
    nothing = torch.zeros(3, 3, dtype=torch.long)
    assert torch.tensor(image_iou(nothing, nothing, has_background=True)).isnan()
    assert image_iou(nothing, nothing, has_background=False) == 1.0


@pytest.mark.parametrize(("size", "columns"), [((96, 64), 2), ((1600, 256), 1), ((1, 50), 2)])
def test_flat_pictures_lie_below_one_another(size: tuple[int, int], columns: int) -> None:
    sheet = sheet_of([Image.new("RGB", size, color) for color in ("red", "green", "blue", "gray")])
    assert sheet.width <= MOST_WIDTH
    right = sheet.getpixel((sheet.width - 2, 1))
    assert right == ((0, 128, 0) if columns == 2 else (255, 0, 0))
