import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import resize as resized

from datamodules.objects.annotation import Objects
from datamodules.segmentation.transforms import TrainTransform
from eomt.utils.labels import IGNORE_INDEX
from eomt.utils.packed_masks import PackedMasks
from tests.datamodules.common.image_files import gray_of


def pair_of(transform: TrainTransform) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    def image_and_mask(image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sample = transform(image, mask)
        assert set(sample) == {"image", "mask"}
        return sample["image"], sample["mask"]

    return image_and_mask


def stripes(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return an image whose gray values tell its labels; labels change from left to right and top to bottom."""
    rows = torch.arange(height)[:, None] * 2 // height
    columns = torch.arange(width)[None] * 2 // width
    mask = rows * 2 + columns
    return gray_of(mask).to(torch.uint8).expand(3, -1, -1), mask.to(torch.uint8)


@pytest.mark.parametrize("size", [(48, 80), (80, 48), (13, 200)])
@pytest.mark.parametrize("scale_range", [(0.5, 2.0), (0.3, 0.4), (3.0, 3.0), (1.0, 1.0)])
def test_image_and_mask_stay_aligned(size: tuple[int, int], scale_range: tuple[float, float]) -> None:
    torch.manual_seed(0)
    fits = [32 / size[0], 40 / size[1]]
    # the range is one of scales at which the image covers the crop
    low, high = (scale * max(fits) / min(fits) for scale in scale_range)
    transform = pair_of(TrainTransform((32, 40), (low, high), flip=True, color_jitter=False))
    # interpolation mixes grays beside an edge, as far as a source pixel reaches, nowhere else
    reach = max(1, math.ceil(max(fits) * scale_range[1]))
    compared = 0
    for _ in range(20):
        image, mask = transform(*stripes(*size))
        assert image.shape == (3, 32, 40)
        assert mask.shape == (32, 40)
        assert image.dtype == mask.dtype == torch.uint8
        padding = mask == IGNORE_INDEX
        assert (image[:, padding] == 0).all()
        assert (image[:, ~padding] > 0).all()
        labels = mask.float()[None]
        pool = {"kernel_size": 2 * reach + 1, "stride": 1, "padding": reach}
        inner = (F.max_pool2d(labels, **pool) == -F.max_pool2d(-labels, **pool))[0] & ~padding
        assert torch.equal(image[0][inner], gray_of(mask[inner].long()).to(torch.uint8))
        compared += int(inner.sum())
    assert compared > 1000


def test_labels_keep_to_pixel_centers() -> None:
    """Doubling a mask doubles each pixel, which nearest neighbors off by half a pixel would not."""
    mask = torch.randint(0, 200, (6, 8), dtype=torch.uint8)
    transform = pair_of(TrainTransform((12, 16), (1.0, 1.0), flip=False, color_jitter=False))
    _, doubled = transform(torch.zeros(3, 6, 8, dtype=torch.uint8), mask)
    assert torch.equal(doubled, mask.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_no_option_leaves_an_image_of_the_crop_size_alone() -> None:
    image, mask = stripes(32, 40)
    same_image, same_mask = pair_of(TrainTransform((32, 40), (1.0, 1.0), flip=False, color_jitter=False))(image, mask)
    assert torch.equal(same_image, image)
    assert torch.equal(same_mask, mask)


def test_scale_range_sets_the_size_of_things() -> None:
    _, mask = pair_of(TrainTransform((40, 40), (0.5, 0.5), flip=False, color_jitter=False))(*stripes(20, 20))
    assert (mask != IGNORE_INDEX).sum() == 20 * 20
    _, mask = pair_of(TrainTransform((40, 40), (2.0, 2.0), flip=False, color_jitter=False))(*stripes(20, 20))
    assert (mask != IGNORE_INDEX).all()


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("size", [(20, 40), (60, 30), (25, 25)])
def test_scales_mean_what_they_do_in_torchvision(size: tuple[int, int], scale: float) -> None:
    """15 H: the reference's jitter; at 1 an image fits into the crop, where it covered it before."""
    expected = v2.ScaleJitter((40, 40), (scale, scale))(tv_tensors.Mask(torch.zeros(1, *size)))
    _, mask = pair_of(TrainTransform((40, 40), (scale, scale), flip=False, color_jitter=False))(*stripes(*size))
    known = mask != IGNORE_INDEX
    found = (int(known.any(1).sum()), int(known.any(0).sum()))
    # torchvision rounds down
    assert found == pytest.approx([min(40, length) for length in expected.shape[-2:]], abs=1)


def test_without_a_range_an_image_covers_the_crop() -> None:
    transform = pair_of(TrainTransform((40, 40), None, flip=False, color_jitter=False))
    for size in ((20, 40), (60, 30), (40, 90)):
        image, mask = transform(*stripes(*size))
        assert (mask != IGNORE_INDEX).all()
        assert image.shape == (3, 40, 40)


def test_crops_reach_every_corner() -> None:
    torch.manual_seed(0)
    transform = pair_of(TrainTransform((10, 10), (4.0, 4.0), flip=False, color_jitter=False))
    corners = {int(label) for _ in range(60) for label in transform(*stripes(20, 20))[1].unique()}
    assert corners == {0, 1, 2, 3}


def test_flip_mirrors_both_about_half_of_the_time() -> None:
    torch.manual_seed(0)
    image, mask = stripes(16, 16)
    transform = pair_of(TrainTransform((16, 16), (1.0, 1.0), flip=True, color_jitter=False))
    flips = 0
    for _ in range(100):
        new_image, new_mask = transform(image, mask)
        flipped = torch.equal(new_mask, mask.flip(-1))
        assert torch.equal(new_image, image.flip(-1) if flipped else image)
        flips += flipped
    assert 30 < flips < 70


def test_color_jitter_changes_colors_but_not_the_padding() -> None:
    torch.manual_seed(0)
    image, mask = stripes(16, 16)
    new_image, new_mask = pair_of(TrainTransform((16, 16), (1.0, 1.0), False, True))(image, mask)
    assert not torch.equal(new_image, image)
    assert torch.equal(new_mask, mask)
    padded, padded_mask = pair_of(TrainTransform((64, 64), (0.5, 0.5), False, True))(image, mask)
    assert (padded[:, padded_mask == IGNORE_INDEX] == 0).all()


def plain_crop(transform: TrainTransform, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Crop, resize, mirror and pad an image and a map by torchvision, with the random numbers that the class draws."""
    size = tuple(mask.shape)
    scales = [wanted / length for wanted, length in zip(transform.crop_size, size, strict=True)]
    assert transform.scale_range is not None
    low, high = transform.scale_range
    scale = min(scales) * (low + (high - low) * torch.rand(()).item())
    window = [min(n, max(1, round(wanted / scale))) for wanted, n in zip(transform.crop_size, size, strict=True)]
    shown = [
        wanted if seen < length else min(wanted, max(1, round(length * scale)))
        for wanted, seen, length in zip(transform.crop_size, window, size, strict=True)
    ]
    place = [int(torch.randint(n - seen + 1, ())) for n, seen in zip(size, window, strict=True)]
    image = resized(v2.functional.crop(image, *place, *window), shown, antialias=True)
    mask = resized(v2.functional.crop(mask[None], *place, *window), shown, InterpolationMode.NEAREST_EXACT)[0]
    if transform.flip and torch.rand(()) < 0.5:
        image, mask = image.flip(-1), mask.flip(-1)
    left_over = [wanted - n for wanted, n in zip(transform.crop_size, shown, strict=True)]
    top, left = (int(torch.randint(n + 1, ())) for n in left_over)
    margins = (left, left_over[1] - left, top, left_over[0] - top)
    return F.pad(image, margins), F.pad(mask, margins, value=IGNORE_INDEX)


@pytest.mark.parametrize("seed", range(12))
def test_masks_of_objects_and_maps_show_the_pixels_that_torchvision_shows(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    height, width, *crop = torch.randint(5, 70, (4,), generator=generator).tolist()
    scale_range = [(0.5, 2.0), (0.1, 0.4), (3.0, 5.0)][seed % 3]
    transform = TrainTransform((crop[0], crop[1]), scale_range, flip=True, color_jitter=False)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    mask = torch.randint(0, 6, (height // 4 + 1, width // 4 + 1), dtype=torch.uint8, generator=generator)
    mask = mask.repeat_interleave(4, 0).repeat_interleave(4, 1)[:height, :width]
    objects = Objects.from_map(mask.numpy(), {label: label for label in range(6)})

    for draw in range(8):
        torch.manual_seed(draw)
        expected_image, expected_mask = plain_crop(transform, image, mask)
        torch.manual_seed(draw)
        sample = transform(image, mask)
        torch.manual_seed(draw)
        shown, masks, positions = transform.of_objects(image, PackedMasks.pack(objects.cropped, objects.size))
        assert torch.equal(sample["image"], expected_image)
        assert torch.equal(sample["mask"], expected_mask)
        assert torch.equal(shown, expected_image)
        labels = objects.class_ids[positions.numpy()].tolist()
        assert labels == [label for label in expected_mask.unique().tolist() if label != IGNORE_INDEX]
        assert all(torch.equal(one, expected_mask == label) for one, label in zip(masks.dense(), labels, strict=True))
