"""Which way of training finds nuclei one by one? `python -m benchmarks.nuclei_instances WEIGHTS STARDIST OUT`.

WEIGHTS is DINOv2-small in Hugging Face layout. STARDIST is the unpacked package stardist 0.9.2, which ships an image of
512 x 512 pixels with fluorescent nuclei (DSB2018, CC0) and their masks. OUT is a folder for the data and the sweep,
which goes on where it was stopped.

The image is cut into 42 tiles of 128 x 128 pixels: 35 from its left three quarters to train on, which overlap one
another by half, and 7 from its right quarter to validate on. Parts of nuclei of fewer than 8 pixels are left out.
`sweep` then compares heads alone, LoRA and full fine-tuning of `configs/eomt_instance.yaml`, each at its own learning
rate, with three seeds. Nothing but the validation tiles is left to measure on.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from pycocotools import mask as coco_mask

SIDE, LEFT, LEAST = 128, 384, 8
WAYS = "heads,attention_mlp,full"
OPTIONS = {
    "model.network.encoder.backbone_name": "vit_small_patch14_dinov2",
    "model.network.encoder.patch_size": "14",
    "model.network.encoder.img_size": "[126, 126]",
    "model.network.num_q": "40",
    "model.network.num_blocks": "3",
    "model.num_points": "1024",
    "model.head_lr": "null",
    "data.num_workers": "0",
    "data.scale_range": "[0.8, 1.25]",
    "trainer.max_steps": "300",
    "trainer.val_check_interval": "75",
}


def tiles() -> dict[str, list[tuple[int, int]]]:
    """Return rows and columns at which the tiles of each split begin."""
    half = SIDE // 2
    rows = range(0, 512 - SIDE + 1, half)
    return {
        "train": [(row, column) for row in rows for column in range(0, LEFT - SIDE + 1, half)],
        "val": [(row, LEFT) for row in rows],
    }


def write_data(stardist: Path, folder: Path) -> None:
    """Write the tiles as images with COCO's JSON."""
    images = stardist / "stardist" / "data" / "images"
    pixels, labels = (tifffile.imread(images / name) for name in ("img2d.tif", "mask2d.tif"))
    for split, corners in tiles().items():
        document: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "nucleus"}]}
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number, (row, column) in enumerate(corners, 1):
            window = slice(row, row + SIDE), slice(column, column + SIDE)
            name = f"tile_y{row:03d}_x{column:03d}.png"
            Image.fromarray(pixels[window].clip(0, 255).astype(np.uint8)).convert("RGB").save(folder / split / name)
            document["images"].append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
            for label in np.unique(labels[window])[1:]:
                mask = labels[window] == label
                if mask.sum() < LEAST:
                    continue
                found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
                document["annotations"].append(
                    {
                        "id": len(document["annotations"]) + 1,
                        "image_id": number,
                        "category_id": 1,
                        "segmentation": {"size": found["size"], "counts": found["counts"].decode()},
                        "bbox": coco_mask.toBbox(found).tolist(),
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                    }
                )
        (folder / split / "_annotations.coco.json").write_text(json.dumps(document))


def main() -> None:
    """Write the data, and sweep."""
    weights, stardist, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]).absolute()
    if not (out / "data").is_dir():
        write_data(stardist, out / "data")
    options = OPTIONS | {
        "data.path": str(out / "data"),
        "model.network.encoder.pretrained": weights,
        "trainer.default_root_dir": str(out),
        "run_name": "sweep",
        "ways": WAYS,
    }
    command = [sys.executable, "main.py", "sweep", "--config", "configs/eomt_instance.yaml"]
    command += [text for name, value in options.items() for text in (f"--{name}", value)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    raise SystemExit(subprocess.run([*command, *sys.argv[4:]], env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
