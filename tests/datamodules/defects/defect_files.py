"""Small data sets in the layouts of steel defects, for the tests of this folder."""

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules import Severstal
from datamodules.defects.run_length import encode_runs

HEIGHT, WIDTH = 16, 40
Masks = dict[int, np.ndarray]


def make_masks(number: int) -> Masks:
    """Return up to two random masks; every fourth image shows nothing."""
    random = np.random.default_rng(number)
    classes = [] if number % 4 == 3 else random.choice(4, 1 + number % 2, replace=False).tolist()
    masks = {}
    for class_id in sorted(classes):
        top, left = random.integers(0, HEIGHT - 6), random.integers(0, WIDTH - 12)
        masks[class_id] = np.zeros((HEIGHT, WIDTH), dtype=bool)
        masks[class_id][top : top + 6, left : left + 12] = random.random((6, 12)) < 0.8
    return masks


def write_image(file: Path, number: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([number, 1]).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)


def write_kaggle(folder: Path, number: int = 12, old: bool = False) -> dict[str, Masks]:
    """Write `train.csv`, in the newer or the older form, and `train_images`."""
    rows = ["ImageId_ClassId,EncodedPixels" if old else "ImageId,ClassId,EncodedPixels"]
    truth = {}
    for index in range(number):
        name = f"im_{index:02d}.png"
        write_image(folder / "train_images" / name, index)
        truth[name] = make_masks(index)
        for class_id in range(4):
            runs = encode_runs(truth[name][class_id]) if class_id in truth[name] else ""
            if old:
                rows.append(f"{name}_{class_id + 1},{runs}")
            elif runs:
                rows.append(f"{name},{class_id + 1},{runs}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return truth


def write_supervisely(folder: Path, numbers: range, prefix: str = "defect_") -> dict[str, Masks]:
    truth = {}
    for index in numbers:
        name = f"{index}.png"
        write_image(folder / "img" / name, index)
        truth[name] = make_masks(index)
        objects = []
        for class_id, mask in truth[name].items():
            # one class in two objects that lie beside each other
            for columns in (slice(0, 20), slice(20, WIDTH)):
                if mask[:, columns].any():
                    objects.append(described(f"{prefix}{class_id + 1}", mask[:, columns], [columns.start, 0]))
        write_json(folder / "ann" / f"{name}.json", objects, (HEIGHT, WIDTH))
    return truth


def write_masks(folder: Path, numbers: range, value: int = 0) -> dict[str, Masks]:
    """Write masks of one class each: `value`, or else class id + 1."""
    truth = {}
    for index in numbers:
        write_image(folder / "images" / f"{index}.png", index)
        (folder / "masks").mkdir(exist_ok=True)
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        class_id = 0 if value else index % 3
        mask[2:9, index : index + 8] = value or class_id + 1
        Image.fromarray(mask).save(folder / "masks" / f"{index}.png")
        truth[f"{index}.png"] = {class_id: mask > 0}
    return truth


def severstal(path: Path, **arguments: Any) -> Severstal:
    return Severstal(str(path), **({"img_size": (16, 40), "num_workers": 0} | arguments))


def bits(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask)


def encoded(mask: np.ndarray, encode: Any = bits, compress: bool = True) -> str:
    file = io.BytesIO()
    image = encode(mask)
    image.save(file, "PNG", **image.info)
    content = zlib.compress(file.getvalue()) if compress else file.getvalue()
    return base64.b64encode(content).decode()


def described(title: str, mask: np.ndarray, origin: list[int], **arguments: Any) -> dict[str, Any]:
    bitmap = {"data": encoded(mask, **arguments), "origin": origin}
    return {"classTitle": title, "geometryType": "bitmap", "bitmap": bitmap}


def write_json(file: Path, objects: list[dict[str, Any]], size: tuple[int, int]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"size": {"height": size[0], "width": size[1]}, "objects": objects}))
    return file
