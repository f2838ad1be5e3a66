from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.objects.pascal_voc import PascalVoc
from datamodules.objects.voc_files import read_label_map, voc_color
from eomt.errors import UserError
from tests.datamodules.objects.test_yolo import write_image

SIZE = (8, 12)


def class_mask() -> np.ndarray:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[1:4, 1:5] = mask[1:4, 7:11] = 1
    mask[5:7, 2:9] = 15
    mask[4, :] = 255
    return mask


def object_mask() -> np.ndarray:
    mask = class_mask()
    mask[1:4, 7:11] = 2
    mask[mask == 15] = 3
    return mask


def save(mask: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask)
    palette = [channel for index in range(255) for channel in voc_color(index)]
    picture.putpalette([*palette, 224, 224, 192])
    picture.save(file)


def write_voc(folder: Path, objects: bool = True) -> Path:
    for name in ("2007_000001", "2007_000002"):
        write_image(folder / "JPEGImages" / f"{name}.jpg", SIZE)
        save(class_mask(), folder / "SegmentationClass" / f"{name}.png")
        if objects:
            save(object_mask(), folder / "SegmentationObject" / f"{name}.png")
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000001\n")
    (lists / "val.txt").write_text("2007_000002\n")
    (lists / "test.txt").write_text("2008_000001\n")
    return folder


def test_the_palette_is_pascals() -> None:
    # of the development kit's documentation
    assert [voc_color(index) for index in (0, 1, 2, 3, 15, 20)] == [
        *((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (192, 128, 128), (0, 64, 128))
    ]


@pytest.mark.parametrize("inside", [".", "VOCdevkit/VOC2012"])
def test_objects_have_the_class_of_their_pixels_and_void_is_none(tmp_path: Path, inside: str) -> None:
    write_voc(tmp_path / inside)
    data = PascalVoc(tmp_path, batch_size=1, num_workers=0)
    # the masks of the official test are not public
    splits = data.find_splits()
    assert {split: [image.name for image in images] for split, images in splits.items()} == {
        "train": ["2007_000001.jpg"],
        "val": ["2007_000002.jpg"],
    }
    found = splits["train"][0].annotation.objects(SIZE, 1)
    assert [data.object_names[class_id] for class_id in found.class_ids] == ["aeroplane", "aeroplane", "person"]
    assert [int(mask.sum()) for mask in found.masks] == [12, 12, 14]
    assert not found.masks[:, 4].any()


def test_void_is_ignored_and_not_background(tmp_path: Path) -> None:
    write_voc(tmp_path)
    for background, expected in ((True, [0, 1, 15, 255]), (False, [0, 14, 255])):
        data = PascalVoc(tmp_path, batch_size=1, num_workers=0, target="semantic", background=background)
        mask = next(iter(data.val_dataloader()))["mask"]
        assert mask.unique().tolist() == expected
        assert (mask[0, 4] == 255).all()


def test_without_masks_of_objects_a_class_is_one(tmp_path: Path) -> None:
    data = PascalVoc(write_voc(tmp_path, objects=False), batch_size=1, num_workers=0)
    found = data.find_splits()["train"][0].annotation.objects(SIZE, 1)
    assert [int(mask.sum()) for mask in found.masks] == [24, 14]


def test_colors_of_a_label_map_are_the_classes(tmp_path: Path) -> None:
    write_voc(tmp_path, objects=False)
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncell:10,20,30::\na:b:1,1,1::\n"
    )
    colors = np.zeros((256, 3), dtype=np.uint8)
    colors[1], colors[15], colors[255] = (10, 20, 30), (1, 1, 1), (224, 224, 192)
    for file in (tmp_path / "SegmentationClass").iterdir():
        Image.fromarray(colors[class_mask()]).save(file)
    data = PascalVoc(tmp_path, batch_size=1, num_workers=0)
    assert data.object_names == ["cell", "a:b"]
    assert data.find_splits()["train"][0].annotation.objects(SIZE, 1).class_ids.tolist() == [0, 1]


def test_files_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    write_voc(tmp_path)
    broken = object_mask()
    broken[4, :] = 9
    save(broken, tmp_path / "SegmentationObject" / "2007_000001.png")
    image = PascalVoc(tmp_path, batch_size=1).find_splits()["train"][0]
    with pytest.raises(UserError, match=r"SegmentationObject/2007_000001\.png: the object of color .* has no class in"):
        image.annotation.objects(SIZE, 1)
    with pytest.raises(UserError, match="make them the same size"):
        image.annotation.objects((9, 12), 1)
    (tmp_path / "SegmentationObject" / "2007_000002.png").unlink()
    with pytest.raises(UserError, match=r"val\.txt: '2007_000002': no such file in .*SegmentationObject"):
        PascalVoc(tmp_path, batch_size=1).find_splits()
    (tmp_path / "labelmap.txt").write_text("a:1,2:x:y\n")
    with pytest.raises(UserError, match=r"labelmap\.txt: line 1"):
        read_label_map(tmp_path / "labelmap.txt")
    with pytest.raises(UserError, match="holds no JPEGImages"):
        PascalVoc(tmp_path / "JPEGImages").find_splits()


def test_lists_have_the_names_that_tools_give_them(tmp_path: Path) -> None:
    lists = write_voc(tmp_path) / "ImageSets" / "Segmentation"
    # CVAT's subsets
    (lists / "train.txt").rename(lists / "Train.txt")
    (lists / "val.txt").rename(lists / "Validation.txt")
    found = PascalVoc(tmp_path).find_splits()
    assert {split: [image.name for image in images] for split, images in found.items()} == {
        "train": ["2007_000001.jpg"],
        "val": ["2007_000002.jpg"],
    }


def test_without_lists_images_without_masks_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_voc(tmp_path)
    for file in (tmp_path / "ImageSets" / "Segmentation").iterdir():
        file.unlink()
    write_image(tmp_path / "JPEGImages" / "2007_000009.jpg", SIZE)
    assert len(PascalVoc(tmp_path).find_splits()["all"]) == 2
    assert "1 image without a mask in SegmentationClass, left out: 2007_000009.jpg" in caplog.text
