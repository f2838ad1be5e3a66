from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageFilter

from datamodules import ImageMaskFolder
from datamodules.segmentation.outlier_exposure import LARGEST, SMALLEST, OutlierPaste, read_cutouts
from datamodules.segmentation.transforms import TrainTransform
from eomt.errors import UserError
from tests.datamodules.common.image_files import write_pair, write_split

RED = (255, 0, 0)


def write_disc(folder: Path) -> Path:
    """Write a red disc of 20 pixels, with green hidden where it is transparent."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:30, :40]
    inside = (x - 18) ** 2 + (y - 14) ** 2 < 10**2
    pixels = np.where(inside[..., None], (*RED, 255), (0, 255, 0, 0)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "disc.png")
    return folder


def paste(outliers: OutlierPaste, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return outliers(torch.full((3, 40, 60), 100, dtype=torch.uint8), torch.ones(40, 60, dtype=torch.int64))


def test_an_object_replaces_pixels_and_their_labels_and_nothing_else(tmp_path: Path) -> None:
    outliers = OutlierPaste(write_disc(tmp_path), 1.0)
    lengths, corners = [], set()
    for seed in range(60):
        sample = paste(outliers, seed)
        outlier = sample["outlier"]
        assert (sample["mask"] == torch.where(outlier, 255, 1)).all()
        red = sample["image"][0].int() - sample["image"][1]
        assert (red[outlier] > 0).all()
        # neither hidden colors nor dark fringes: all is between the image and the object
        assert (sample["image"][0] >= 99).all()
        assert (sample["image"][1:] <= 100).all()
        rows, columns = outlier.nonzero(as_tuple=True)
        lengths.append(max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) + 1)
        corners.add((int(rows.min()), int(columns.min())))
    assert min(lengths) >= SMALLEST * 40 - 1
    assert SMALLEST * 40 + 8 < max(lengths) <= LARGEST * 40
    assert len(corners) > 40


def test_masks_say_where_the_object_is(tmp_path: Path) -> None:
    mask = np.zeros((12, 16), dtype=np.uint8)
    mask[2:6, 4:12] = 3
    mask[8:] = 255
    write_pair(tmp_path, "0.png", mask)
    sample = paste(OutlierPaste(tmp_path, 1.0))
    rows, columns = sample["outlier"].nonzero(as_tuple=True)
    height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
    assert sample["outlier"].sum() == height * width
    assert abs(width - 2 * height) <= 1


def test_masks_follow_the_orientation_of_their_images(tmp_path: Path) -> None:
    """15.7: the image is turned by its EXIF orientation, and a mask drawn on its stored pixels with it."""
    colors, mask = np.zeros((12, 16, 3), dtype=np.uint8), np.zeros((12, 16), dtype=np.uint8)
    colors[:4, :6], mask[:4, :6] = RED, 1
    write_pair(tmp_path, "0.png", mask)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    Image.fromarray(colors).save(tmp_path / "images" / "0.png", exif=exif)
    (cutout,) = read_cutouts(tmp_path)
    colors_of_object, opacity = cutout.read()
    assert opacity.shape == (1, 4, 6)
    assert (colors_of_object[0] == 1).all()


def write_masked(folder: Path, mask: Image.Image) -> OutlierPaste:
    write_pair(folder, "0.png", np.zeros((mask.height, mask.width), dtype=np.uint8))
    mask.save(folder / "masks" / "0.png")
    return OutlierPaste(folder, 1.0)


def test_of_black_and_white_masks_white_is_the_object(tmp_path: Path) -> None:
    """15.6: 255 was ignored, and nothing was left."""
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[4:14, 5:25] = 255
    rows, columns = paste(write_masked(tmp_path, Image.fromarray(mask)))["outlier"].nonzero(as_tuple=True)
    assert abs(int(columns.max() - columns.min()) + 1 - 2 * int(rows.max() - rows.min() + 1)) <= 1


@pytest.mark.parametrize("factor", [1, 4])
def test_smooth_masks_are_refused_for_their_object_would_be_ignored(tmp_path: Path, factor: int) -> None:
    """15.6: the object, 255, was dropped and the ring around it pasted."""
    mask = Image.new("L", (60, 40))
    mask.paste(255, (15, 10, 45, 30))
    mask = mask.rotate(9).filter(ImageFilter.GaussianBlur(2)).resize((60 * factor, 40 * factor), 0)
    with pytest.raises(UserError, match=r"outliers: .*smooth or lossy.*black and white"):
        write_masked(tmp_path, mask)


def test_a_mask_of_ignored_pixels_alone_is_no_object(tmp_path: Path) -> None:
    write_pair(tmp_path, "1.png", np.pad(np.ones((8, 8), dtype=np.uint8), 4))
    first = write_masked(tmp_path, Image.new("L", (20, 20), 255)).cutouts[0]
    with pytest.raises(UserError, match=r"0\.png: no pixel belongs to an object \(0 and 255 do not count\)"):
        first.read()


def test_the_probability_is_that_of_an_image(tmp_path: Path) -> None:
    outliers = OutlierPaste(write_disc(tmp_path), 0.25)
    changed = [bool(paste(outliers, seed)["outlier"].any()) for seed in range(200)]
    assert 0.15 < sum(changed) / 200 < 0.35


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_batches_mark_what_was_pasted_and_depend_on_the_seed_alone(tmp_path: Path, num_workers: int) -> None:
    for split in ("train", "val"):
        write_split(tmp_path / split)
    write_disc(tmp_path / "objects")

    def batches(workers: int) -> list[dict[str, torch.Tensor]]:
        data = ImageMaskFolder(
            str(tmp_path), 2, (24, 24), num_workers=workers, outliers=str(tmp_path / "objects"), outlier_probability=1.0
        )
        return list(data.train_dataloader())

    for batch, other in zip(batches(0), batches(num_workers), strict=True):
        assert (batch["outlier"].shape, batch["outlier"].dtype) == ((2, 24, 24), torch.bool)
        assert batch["outlier"].flatten(1).any(1).all()
        assert (batch["mask"][batch["outlier"]] == 255).all()
        assert all(torch.equal(batch[key], other[key]) for key in ("image", "mask", "outlier"))


def test_what_is_pasted_is_in_the_light_of_its_surroundings_and_in_no_padding(tmp_path: Path) -> None:
    outliers = OutlierPaste(write_disc(tmp_path), 1.0)
    image, mask = torch.full((3, 24, 24), 128, dtype=torch.uint8), torch.zeros(24, 24, dtype=torch.uint8)
    colors = set()
    for seed in range(8):
        torch.manual_seed(seed)
        sample = TrainTransform((48, 48), (0.5, 0.5), flip=False, color_jitter=True)(image, mask, outliers)
        assert sample["outlier"].shape == sample["mask"].shape == (48, 48)
        assert sample["outlier"].any()
        padding = (sample["image"] == 0).all(0)
        assert padding.any()
        assert not (sample["outlier"] & padding).any()
        assert (sample["mask"][sample["outlier"]] == 255).all()
        colors.add(tuple(sample["image"][:, sample["outlier"]].float().mean(1).round().tolist()))
    assert len(colors) >= 7


def test_without_outliers_batches_are_as_before(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_split(tmp_path / split)
    (batch, _) = ImageMaskFolder(str(tmp_path), 2, (8, 8), num_workers=0).train_dataloader()
    assert set(batch) == {"image", "mask", "name"}


def opaque(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "a.png")


def invisible(folder: Path) -> None:
    Image.new("RGBA", (4, 4)).save(folder / "a.png")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: None, "holds neither transparent images"),
        (opaque, r"a\.png: an outlier without transparency"),
        (invisible, r"a\.png: no pixel belongs to an object"),
        (lambda folder: (folder / "a.png").write_bytes(b"x"), r"a\.png: cannot be read as an image"),
    ],
)
def test_folders_without_objects_are_refused(tmp_path: Path, write: object, message: str) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=message):
        paste(OutlierPaste(tmp_path, 1.0))
