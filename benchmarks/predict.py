"""Memory and speed of `predict` over many small images.

    python -m benchmarks.predict [IMAGES]

A tiny EoMT (random weights) predicts images of 64 x 64 pixels, which are drawn into a temporary folder, in a process of
its own. Its resident memory is read after a tenth of the images and at the end.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

ROOT = Path(__file__).parents[1]
SIDE = 64
BATCH = 8
CONFIG: dict[str, Any] = {
    "model": {
        "class_path": "eomt.tasks.SemanticSegmentation",
        "init_args": {
            "network": {
                "class_path": "eomt.models.EoMT",
                "init_args": {
                    "num_q": 6,
                    "num_blocks": 2,
                    "pretrained": False,
                    "encoder": {
                        "class_path": "eomt.models.ViT",
                        "init_args": {
                            "backbone_name": "test_vit",
                            "img_size": [SIDE, SIDE],
                            "patch_size": 8,
                            "pretrained": False,
                        },
                    },
                },
            },
        },
    },
    "data": {
        "class_path": "datamodules.ImageMaskFolder",
        "init_args": {
            "path": "none",
            "class_names": ["a", "b", "c"],
            "num_workers": 0,
            "eval_batch_size": BATCH,
        },
    },
    "audit": {"allow_random_base": True},
}


class MemoryNotes(Callback):
    """Writes images, MiB of resident memory and seconds after some batches.

    Args:
        file: File for the notes.
        after: Numbers of batches.
    """

    def __init__(self, file: str, after: list[int]) -> None:
        self.file, self.after = file, after
        self._start = time.perf_counter()

    def on_predict_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Write a note."""
        batches = args[2] + 1
        if batches == 1:
            self._start = time.perf_counter()
        if batches in self.after:
            status = Path("/proc/self/status").read_text()
            kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
            with Path(self.file).open("a") as notes:
                notes.write(f"{batches * BATCH} {kilobytes / 1024:.1f} {time.perf_counter() - self._start:.1f}\n")


def main() -> None:
    """Draw the images, predict them, and print a table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{number:06d}.png")
        notes = folder / "notes"
        points = [count // 10 // BATCH, count // BATCH]
        callback = {"class_path": "benchmarks.predict.MemoryNotes", "init_args": {"file": str(notes), "after": points}}
        (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        command = [sys.executable, "main.py", "predict", "--config", str(folder / "config.yaml")]
        command += ["--data.predict_path", str(folder / "images"), "--trainer.default_root_dir", str(folder / "runs")]
        command += ["--trainer.callbacks", json.dumps([callback]), "--trainer.accelerator", "cpu", *sys.argv[2:]]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
        print("| images | resident MiB | images/s |\n|---|---|---|")
        for line in notes.read_text().splitlines():
            images, mebibytes, seconds = map(float, line.split())
            print(f"| {images:,.0f} | {mebibytes:.1f} | {images / seconds:.1f} |")


if __name__ == "__main__":
    main()
