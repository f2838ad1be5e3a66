"""Memory and time of many objects in large images: `python -m benchmarks.object_memory [STEP] [OBJECTS]`.

STEP is `validation_step`, `test_step`, or `losses`, of a training batch. Two images of 2048 x 2048 pixels with 1,000
round objects each are written in COCO's format and evaluated by a tiny EoMT of 200 queries; a training batch is four
crops of 640 x 640 out of such images.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datamodules import CocoInstances
from eomt.losses.point_targets import ObjectTargets
from eomt.models import EoMT, ViT
from eomt.tasks import InstanceSegmentation

SIDE, CROP, QUERIES = 2048, 640, 200
NUM_IMAGES = {"train": 4, "val": 2}


def write(folder: Path, split: str, objects: int) -> None:
    """Write the images of a split and their JSON."""
    random = np.random.default_rng(len(split))
    images, annotations = [], list[dict[str, Any]]()
    (folder / f"{split}2017").mkdir()
    for number in range(1, NUM_IMAGES[split] + 1):
        name = f"{split}{number}.png"
        pixels = random.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((SIDE, SIDE)).save(folder / f"{split}2017" / name)
        images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
        for index in range(objects):
            angles, radius = np.linspace(0, 2 * np.pi, 16, endpoint=False), random.uniform(8, 30)
            points = random.uniform(20, SIDE - 20, 2) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            polygon = points.clip(0, SIDE).round(2).ravel().tolist()
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": 1 + index % 2}
            annotations.append(ids | {"segmentation": [polygon]})
    categories = [{"id": 1, "name": "light"}, {"id": 2, "name": "dark"}]
    (folder / "annotations").mkdir(exist_ok=True)
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(document))


def peak() -> float:
    """Return the peak of resident memory in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    step = sys.argv[1] if len(sys.argv) > 1 else "validation_step"
    objects = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = ViT("test_vit", (32, 48), pretrained=False, patch_size=8)
    task = InstanceSegmentation(EoMT(encoder, 2, num_q=QUERIES, num_blocks=2, masked_attn_enabled=False)).eval()
    with tempfile.TemporaryDirectory() as folder:
        for split in NUM_IMAGES:
            write(Path(folder), split, objects)
        data = CocoInstances(Path(folder), crop_size=CROP, num_workers=0)
        data.setup("fit")
        before, start = peak(), time.process_time()
        if step == "losses":
            batch = next(iter(data.train_dataloader()))
            made = time.process_time()
            layers = [(torch.randn(4, QUERIES, 160, 160).requires_grad_(), torch.randn(4, QUERIES, 3).requires_grad_())]
            task.criterion(layers, ObjectTargets(batch["masks"], batch["labels"]))["loss"].backward()
            counts = ", ".join(str(len(labels)) for labels in batch["labels"])
            print(f"crops with {counts} objects: made in {made - start:.1f} s of CPU")
            start = made
        else:
            with torch.no_grad():
                for index, batch in enumerate(data.val_dataloader()):
                    getattr(task, step)(batch, index)
    print(
        f"{step}, {objects} objects: {time.process_time() - start:.1f} s of CPU, peak memory +{peak() - before:.0f} MiB"
    )


if __name__ == "__main__":
    main()
