"""Folders as runs leave them, written in milliseconds: figures, tables and pictures are made up."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

STAMP = "20260101-000000"
SUMMARY: dict[str, Any] = {
    "task": "SemanticSegmentation",
    "metric": "val_iou",
    "mode": "max",
    "baseline": 0.25,
    "best": 0.75,
    "best_step": 20,
    "steps": 30,
    "stopped_early": None,
    "trainable_parameters": 100,
    "total_parameters": 1000,
    "lora_parameters": 100,
    "adapted_modules": 4,
    "adapter_bytes": 4000,
    "merged_bytes": 40000,
    "merge_relative_diff": 1e-6,
    "audit": "all 4 adapters act and learn",
    "notes": [],
    "base": {"id": "some/base", "fingerprint": "0123"},
    "data": {"train": {"images": 8}, "val": {"images": 4}},
    "seed": 42,
    "versions": {"python": "3.11", "torch": "2.15"},
    "machine": "CPU, 1 threads on 2 cores, Linux x86_64",
    "command": "main.py fit --config a.yaml",
    "seconds": 60.0,
}
METRICS = [
    {"step": 0, "val_loss": 2.0, "val_iou": 0.25, "val_iou/road": 0.3, "val_iou/sky": 0.2, "train_loss": ""},
    {"step": 10, "val_loss": 1.5, "val_iou": 0.5, "val_iou/road": 0.6, "val_iou/sky": 0.4, "train_loss": 3.0},
    {"step": 20, "val_loss": 1.0, "val_iou": 0.75, "val_iou/road": 0.9, "val_iou/sky": 0.6, "train_loss": 2.0},
    {"step": 30, "val_loss": 1.1, "val_iou": 0.7, "val_iou/road": 0.9, "val_iou/sky": 0.5, "train_loss": 1.5},
]
CONFIG = """\
seed_everything: 42
trainer: {max_steps: 30}
model:
  class_path: eomt.tasks.SemanticSegmentation
  init_args: {lr: 0.001, lora_config: {class_path: LoRAConfig, init_args: {rank: 8}}}
data:
  class_path: datamodules.ImageMaskFolder
  init_args: {path: data/images, batch_size: 4, split_seed: 0}
"""


def write_table(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same columns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_run(
    folder: Path, config: str = CONFIG, metrics: Sequence[Mapping[str, Any]] = METRICS, **summary: Any
) -> Path:
    """Write a run that has ended and was not tested; return its folder.

    Args:
        folder: To make.
        config: Its configuration.
        metrics: Rows of metrics.csv.
        summary: Fields of the summary that are not those of `SUMMARY`.
    """
    folder.mkdir(parents=True)
    (folder / "training_summary.json").write_text(json.dumps(SUMMARY | summary))
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    (folder / "training.log").write_text("a line of the log\n")
    write_table(folder / "metrics.csv", metrics)
    return folder


def write_test(folder: Path, names: Sequence[str] = ("road", "sky"), **figures: Any) -> Path:
    """Write what a test adds to a run of semantic segmentation; return the path with which its files begin.

    Args:
        folder: Of the run.
        names: Of the classes, each one taken for the next by a tenth.
        figures: Beside those that are made up.
    """
    results = folder / "results" / STAMP
    examples = Path(f"{results}_examples")
    examples.mkdir(parents=True)
    parts = {f"test_iou/{name}": 0.8 for name in names}
    content = {"task": "SemanticSegmentation", "weights": "a/best.ckpt", "metrics": {"test_iou": 0.7} | parts | figures}
    Path(f"{results}_eval.json").write_text(json.dumps(content))
    rows = []
    for row, name in enumerate(names):
        counts = dict.fromkeys(names, 0) | {names[(row + 1) % len(names)]: 10} | {name: 90}
        rows.append({"truth \\ prediction": name} | counts)
    write_table(Path(f"{results}_confusion.csv"), rows)
    shown: dict[str, Any] = {"caption": "By the IoU.", "picture": "image and truth", "legend": []}
    for which in ("best", "worst"):
        Image.new("RGB", (64, 48), (0, 90, 60)).save(examples / f"{which}_0.jpg")
        shown[which] = [{"name": f"{which}.png", "file": f"{which}_0.jpg", "figure": 0.5, "lines": ["IoU 0.5"]}]
    (examples / "examples.json").write_text(json.dumps(shown))
    return results
