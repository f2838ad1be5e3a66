"""COCO's instances through the command line: one data set trains maps of classes and prompted objects."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.torch import save_file

from tests.cli_runs import Workspace, refusal
from tests.tiny import make_eomt
from tests.tiny_sam2 import tiny_folder

SIZE = (32, 48)
COLORS = {4: (220, 60, 60), 9: (60, 60, 220)}


def write_boxes(folder: Path) -> None:
    """Write two images of each split and class more than they need: bright rectangles, two of a class on each image."""
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3), ("test", 2)):
        images, annotations = [], []
        for index in range(count):
            pixels = random.integers(10, 70, (*SIZE, 3)).astype(np.uint8)
            images.append({"id": index, "file_name": f"{index}.png", "height": SIZE[0], "width": SIZE[1]})
            for number, category in enumerate((4, 4, 9)):
                top, left = int(random.integers(0, 20)), 16 * number + int(random.integers(0, 4))
                pixels[top : top + 10, left : left + 11] = COLORS[category]
                corners = [left, top, left + 11, top, left + 11, top + 10, left, top + 10]
                annotations.append(
                    {
                        "id": 10 * index + number,
                        "image_id": index,
                        "category_id": category,
                        "segmentation": [corners],
                        "iscrowd": 0,
                    }
                )
            (folder / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / split / f"{index}.png")
        categories = [{"id": 9, "name": "blue"}, {"id": 4, "name": "red"}]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    write_boxes(folder / "data")
    return folder


def workspace(folder: Path, name: str, task: str, network: dict[str, Any], **arguments: Any) -> Workspace:
    (folder / name).mkdir()
    lora = {"rank": 2, "target_modules": ["attn" if name == "prompted" else "attention"], "freeze_base_model": True}
    config = {
        "model": {"class_path": task, "init_args": {"lr": 3e-3, "network": network, "lora_config": lora} | arguments},
        "data": {
            "class_path": "datamodules.CocoInstances",
            "init_args": {"path": str(folder / "data"), "batch_size": 4, "num_workers": 0},
        },
        "trainer": {"max_steps": 4, "log_every_n_steps": 2, "num_sanity_val_steps": 0},
    }
    (folder / name / "tiny.yaml").write_text(yaml.safe_dump(config))
    return Workspace(folder / name)


def merged(run: Path) -> Path:
    (found,) = run.glob("best_merged_*")
    return found


def saved(run: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    return data


def test_objects_train_maps_of_classes_with_a_background(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    (folder / "base").mkdir()
    save_file(make_eomt(num_classes=3).state_dict(), folder / "base" / "model.safetensors")
    vit = {"backbone_name": "test_vit", "img_size": [*SIZE], "patch_size": 8, "pretrained": False}
    eomt = {
        "num_q": 6,
        "num_blocks": 2,
        "pretrained": str(folder / "base"),
        "encoder": {"class_path": "eomt.models.ViT", "init_args": vit},
    }
    network = {"class_path": "eomt.models.EoMT", "init_args": eomt}
    space = workspace(folder, "maps", "eomt.tasks.SemanticSegmentation", network, num_points=64)
    run = space.fit("maps")
    found = saved(run)
    assert (found["target"], found["crop_size"], found["class_names"]) == ("semantic", [*SIZE], ["red", "blue"])
    summary = json.loads((run / "training_summary.json").read_text())
    counts = {"images": 3, "background": 3, "red": 3, "objects of red": 6, "blue": 3, "objects of blue": 3}
    assert summary["data"]["val"] == counts
    # annotations may be gone
    images = folder / "data" / "test"
    (images / "_annotations.coco.json").rename(images / "away")
    space.run("predict", "--ckpt_path", str(merged(run)), "--data.predict_path", str(images), config=False)
    (images / "away").rename(images / "_annotations.coco.json")
    assert len(list((run / "predictions" / "masks").glob("*.png"))) == 2
    message = refusal(capsys, space, "fit", "--data.target", "instance")
    assert "data.target: instance, but the task takes semantic; leave it out: it is filled in" in message


def test_each_object_is_prompted(folder: Path) -> None:
    network = {"class_path": "eomt.models.SAM2", "init_args": {"pretrained": tiny_folder(), "img_size": 64}}
    space = workspace(folder, "prompted", "eomt.tasks.PromptedSegmentation", network)
    run = space.fit("prompted")
    found = saved(run)
    assert (found["target"], found["img_size"]) == ("prompted", 64)
    space.run("test", "--ckpt_path", "best", "--run_name", "prompted")
    (file,) = run.glob("results/*_eval.json")
    figures = json.loads(file.read_text())["metrics"]
    # three objects of each image, of which two are of one class
    assert figures["test_box_n_evaluated"] == 6
    boxes = folder / "boxes.json"
    document = json.loads((folder / "data" / "test" / "_annotations.coco.json").read_text())
    for entry in document["annotations"]:
        lengths = coco_mask.frPyObjects(entry.pop("segmentation"), *SIZE)
        entry["bbox"] = coco_mask.toBbox(lengths)[0].tolist()
    boxes.write_text(json.dumps(document))
    images = folder / "data" / "test"
    arguments = ["--data.predict_path", str(images), "--data.prompts", str(boxes)]
    space.run("predict", "--ckpt_path", str(merged(run)), *arguments, config=False)
    assert len(list((run / "predictions" / "masks").glob("*.png"))) == 2
