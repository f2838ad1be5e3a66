"""Images with rectangles that are objects, for tests of instance and panoptic segmentation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from eomt.results.coco import annotation
from tests.cli_runs import Workspace
from tests.tiny import make_eomt

NAMES = ["red", "green", "around"]

COLORS = torch.tensor([[40, 40, 40], [220, 60, 60], [60, 220, 60]])


def make_objects(seed: int, size: tuple[int, int] = (32, 48)) -> tuple[Tensor, Tensor, Tensor]:
    """An image uint8 `(3, H, W)` with a red and a green rectangle, their masks bool `(2, H, W)` and classes `(2,)`."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    for index, mask in enumerate(masks):
        # in the left and in the right half
        top = int(torch.randint(0, height // 2, (), generator=generator))
        left = index * width // 2 + int(torch.randint(0, width // 8, (), generator=generator))
        mask[top : top + height // 2, left : left + width // 3] = True
    labels = torch.tensor([0, 1]) if seed % 2 else torch.tensor([1, 0])
    painted = torch.zeros(size, dtype=torch.int64)
    for mask, label in zip(masks, labels, strict=True):
        painted[mask] = label + 1
    noise = torch.randint(-20, 20, (*size, 3), generator=generator)
    return (COLORS[painted] + noise).clamp(0, 255).to(torch.uint8).permute(2, 0, 1).contiguous(), masks, labels


def make_batch(*seeds: int, size: tuple[int, int] = (32, 48), panoptic: bool = False) -> dict[str, Any]:
    """A batch of such images; `panoptic` adds what is around the rectangles, as stuff of class 2."""
    images, masks, labels = zip(*(make_objects(seed, size) for seed in seeds), strict=True)
    if panoptic:
        masks = tuple(torch.cat([of, ~of.any(0, keepdim=True)]) for of in masks)
        labels = tuple(torch.cat([of, torch.tensor([2])]) for of in labels)
    return {
        "image": torch.stack(images),
        "masks": list(masks),
        "labels": list(labels),
        "is_crowd": [torch.zeros(len(of), dtype=torch.bool) for of in labels],
        "name": [f"{seed}.png" for seed in seeds],
    }


def write_coco(folder: Path, split: str, seeds: range) -> None:
    """Write such images in COCO's layout: objects, and segments with what is around them."""
    images, objects, segments = [], [], []
    pngs = folder / "annotations" / f"panoptic_{split}2017"
    pngs.mkdir(parents=True)
    (folder / f"{split}2017").mkdir()
    for seed in seeds:
        image, masks, labels = make_objects(seed)
        file = {"id": seed, "file_name": f"{seed:03d}.png", "height": 32, "width": 48}
        images.append(file)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{split}2017" / str(file["file_name"]))
        for mask, label in zip(masks, labels.tolist(), strict=True):
            found = annotation(mask.numpy(), "") | {"image_id": seed, "category_id": label + 1, "id": len(objects) + 1}
            objects.append({name: value for name, value in found.items() if name != "category"})
        every = [*masks, ~masks.any(0)]
        numbers = sum(mask.to(torch.int64) * (index + 1) for index, mask in enumerate(every))
        assert isinstance(numbers, Tensor)
        rgb = np.stack([numbers.numpy(), np.zeros((32, 48)), np.zeros((32, 48))], -1).astype(np.uint8)
        Image.fromarray(rgb).save(pngs / f"{seed:03d}.png")
        infos = [
            {"id": index + 1, "category_id": label + 1, "area": int(mask.sum()), "bbox": [0, 0, 1, 1], "iscrowd": 0}
            for index, (mask, label) in enumerate(zip(every, [*labels.tolist(), 2], strict=True))
        ]
        segments.append({"image_id": seed, "file_name": f"{seed:03d}.png", "segments_info": infos})
    categories = [{"id": index + 1, "name": name, "isthing": int(index < 2)} for index, name in enumerate(NAMES)]
    for kind, found, known in (("instances", objects, categories[:2]), ("panoptic", segments, categories)):
        document = {"images": images, "annotations": found, "categories": known}
        (folder / "annotations" / f"{kind}_{split}2017.json").write_text(json.dumps(document))


def write_workspace(folder: Path, kind: str) -> Workspace:
    """COCO's files, a base that a file holds, and a config of 20 steps; `kind` is instance or panoptic."""
    splits = {"train": range(12), "val": range(100, 103)}
    if kind == "instance":
        splits["test"] = range(200, 205)
    for split, seeds in splits.items():
        write_coco(folder / "data", split, seeds)
    torch.manual_seed(0)
    panoptic = kind == "panoptic"
    base = make_eomt(num_classes=3 if panoptic else 2)
    base.attn_mask_probs.zero_()
    (folder / "base").mkdir()
    save_file(base.state_dict(), folder / "base" / "model.safetensors")
    vit = {"backbone_name": "test_vit", "img_size": [32, 48], "patch_size": 8, "pretrained": False}
    network = {
        **{"num_q": 6, "num_blocks": 2, "masked_attn_enabled": False, "pretrained": str(folder / "base")},
        "encoder": {"class_path": "eomt.models.ViT", "init_args": vit},
    }
    lora = {"rank": 4, "lora_alpha": 8, "target_modules": ["attention", "mlp"], "freeze_base_model": True}
    lora["trainable_modules"] = ["q", "class_head", "mask_head", "upscale"]
    arguments = {"lr": 4e-3, "num_points": 64, "score_threshold": 0.1, "lora_config": lora}
    arguments["network"] = {"class_path": "eomt.models.EoMT", "init_args": network}
    if panoptic:
        arguments["overlap_threshold"] = 0.1
    data = {"path": str(folder / "data"), "batch_size": 4, "num_workers": 0, "augment": False}
    config = {
        "model": {"class_path": f"eomt.tasks.{kind.capitalize()}Segmentation", "init_args": arguments},
        "data": {"class_path": f"datamodules.Coco{'Panoptic' if panoptic else 'Instances'}", "init_args": data},
        "trainer": {
            "max_steps": 20,
            "log_every_n_steps": 10,
            "val_check_interval": 10,
            "check_val_every_n_epoch": None,
            # without step 0, which answers nothing
            "num_sanity_val_steps": 0,
            "callbacks": [
                "callbacks.LoRACheckpoint",
                "callbacks.MergeOnSave",
                "callbacks.EarlyStoppingOnIoU",
                {"class_path": "callbacks.PredictionPictures", "init_args": {"num_samples": 1}},
            ],
        },
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    return Workspace(folder)
