"""Valid files that say what tables and lists of images with objects hold, and images of other values than RGB."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from datamodules.common.conversion import Conversion, ConvertedImage
from datamodules.common.reading import image_size, read_pixels, stored_layout
from datamodules.common.values import pixel_count
from datamodules.objects.hugging_face import HuggingFaceSegmentation
from datamodules.objects.yolo_files import read_yolo
from eomt.utils.reading import FIELDS, read_json
from tests.datamodules.objects.drawn_exports import EXPORTS
from tests.datamodules.objects.test_yolo import write_yolo


def table_of_datasets(name: str) -> Callable[[Path], Path]:
    """A file of what `save_to_disk` wrote, deep inside: a changed path may lead to the folders above."""

    def write(folder: Path) -> Path:
        copied = folder / "a" / "b" / "c"
        shutil.copytree(EXPORTS / "datasets" / "arrow", copied)
        return copied / name

    return write


def read_datasets(file: Path) -> None:
    (root,) = [parent for parent in file.parents if (parent / "validation").is_dir()]
    for images in HuggingFaceSegmentation(root, class_names=["a", "b"]).find_splits().values():
        for image in images:
            image.annotation.objects(image_size(image.image), 1)


def label_name_file(folder: Path) -> Path:
    shutil.copytree(EXPORTS / "datasets" / "parquet", folder, dirs_exist_ok=True)
    return folder / "id2label.json"


def read_label_names(file: Path) -> None:
    data = HuggingFaceSegmentation(file.parent)
    assert data.num_classes == len(data.class_names)


def yolo_names(folder: Path) -> Path:
    (write_yolo(folder) / "data.yaml").unlink()
    (folder / "classes.txt").write_text("cell\ncrack\n")
    return folder / "classes.txt"


def read_yolo_names(file: Path) -> None:
    read_yolo(file.parent)


def yolo_list(folder: Path) -> Path:
    inside = write_yolo(folder / "a" / "b", description="train: train.txt\nnames: [cell, crack]\n")
    (inside / "train.txt").write_text("images/a.png\ndata/images/b.png\n")
    return inside / "train.txt"


def deep_image(name: str) -> Callable[[Path], Path]:
    """Colors or gray of 16 bits, as a PNG or a TIFF."""

    def write(folder: Path) -> Path:
        values = np.random.default_rng(0).integers(0, 4096, (12, 16, 3), dtype=np.uint16)
        if name == "gray.png":
            Image.fromarray(values[..., 0]).save(folder / name)
        elif name.endswith(".png"):
            (folder / name).write_bytes(imagecodecs.png_encode(values))
        else:
            tifffile.imwrite(folder / name, np.stack([values] * 2), photometric="rgb", metadata=None)
        return folder / name

    return write


def read_deep_image(file: Path) -> None:
    conversion = Conversion.of_fields((0, 4095), None, 1 if file.suffix == ".tif" else None)
    assert conversion is not None
    stored_layout(ConvertedImage(file, conversion))
    pixel_count(file)
    assert read_pixels(ConvertedImage(file, conversion)).shape[0] == conversion.num_channels


def conversion_file(folder: Path) -> Path:
    (folder / "fields.json").write_text(json.dumps({"intensity": [0, 4095], "channels": [3, 0, 1, 2], "page": 1}))
    return folder / "fields.json"


def read_conversion(file: Path) -> None:
    found = Conversion.of_settings(read_json(file, FIELDS, "give another"), "fields.json")
    if found is not None:
        assert 3 <= found.num_channels <= 1024
