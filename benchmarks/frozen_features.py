"""What it saves to compute frozen parts once. `python -m benchmarks.frozen_features [step | run]`.

step: training steps of SAM 2 of random weights at 1024 px with adapters in the mask decoder alone, one image and one
object, with 0, 1 and 7 correction clicks (the default of `PromptSampling`): without a cache, and where the image was
seen before. The CPU time of forward and backward, median of three. EoMT on ViT-S at 448 px follows, with heads alone
and with adapters in its last blocks.

run: the whole command `fit` on 20 drawn strips, 1024 px, 200 steps of one image, without and with the cache: CPU time
of the whole process, its peak memory, and the figure that it ends with.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eomt.lora.config import LoRAConfig
from eomt.models import SAM2, EoMT, ViT
from eomt.models.frozen_features import FeatureCache
from eomt.models.network import Network
from eomt.prompts.training_prompts import PromptSampling
from eomt.tasks import PromptedSegmentation, SemanticSegmentation

PIXELS, STEPS, ROUNDS = 1024, 200, 3
DECODER = LoRAConfig(target_modules=["mask_decoder.transformer"], freeze_base_model=True)
HEADS = ["q", "class_head", "mask_head", "upscale"]
RUN = f"""
seed_everything: 1
audit: {{allow_random_base: true}}
model:
  class_path: eomt.tasks.PromptedSegmentation
  init_args:
    modes: [box]
    sampling: {{correction_clicks: 1}}
    network:
      class_path: eomt.models.SAM2
      init_args: {{pretrained: false, size: tiny, img_size: [{PIXELS}, {PIXELS}]}}
    lora_config:
      class_path: eomt.models.lora_integration.LoRAConfig
      init_args: {{rank: 8, target_modules: [mask_decoder.transformer], freeze_base_model: true}}
data:
  class_path: datamodules.SteelStrips
  init_args: {{num_images: 42, strip_size: [256, 1600], batch_size: 1, eval_batch_size: 1, augment: false}}
trainer:
  max_steps: {STEPS}
  val_check_interval: 100
  check_val_every_n_epoch: null
  log_every_n_steps: 50
  callbacks: []
"""


def seconds(losses: Callable[[], Tensor]) -> float:
    """Return the median CPU seconds of a step."""
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        losses().backward()
        found.append(time.process_time() - start)
    return statistics.median(found)


def row(name: str, task: Any, batch: dict[str, Any]) -> str:
    """Return a line of the table: a step without and with a cache, their ratio, and what is kept of an image."""
    task.train()
    parts = [module for module in task.network.modules() if isinstance(module, Network)]
    times = []
    cache = FeatureCache(4.0)
    for given in (None, cache):
        for part in parts:
            part.feature_cache = given
        task.losses(batch)[0]["loss"].backward()
        times.append(seconds(lambda: task.losses(batch)[0]["loss"]))
    kept = (cache.limit - cache.free) / len(cache) / 2**20
    return f"| {name} | {times[0]:.2f} | {times[1]:.2f} | {times[1] / times[0]:.2f} | {kept:.1f} |"


def steps() -> None:
    """Print the table of steps."""
    torch.set_num_threads(1)
    print("| | first time, s | again, s | ratio | kept of an image, MiB |")
    print("|---|---|---|---|---|")
    for size in ("tiny", "large"):
        for clicks in (0, 1, 7):
            torch.manual_seed(0)
            network = SAM2(pretrained=False, size=size, img_size=PIXELS)
            task = PromptedSegmentation(network, DECODER, sampling=PromptSampling(correction_clicks=clicks))
            batch = task.synthetic_batch(1)
            batch = batch | {name: [value[:1] for value in batch[name]] for name in ("masks", "class_ids")}
            print(row(f"SAM 2 {size}, mask decoder, {clicks} correction clicks", task, batch), flush=True)
    ways: dict[str, dict[str, Any]] = {
        "heads alone": {"enabled": False},
        "adapters in the last 4 blocks": {"target_modules": ["attention", "mlp"], "layers": "last:4"},
        "adapters in the last 6 blocks": {"target_modules": ["attention", "mlp"], "layers": "last:6"},
    }
    for name, fields in ways.items():
        torch.manual_seed(0)
        network = EoMT(ViT("vit_small_patch16_224", (448, 448), pretrained=False), 19, 100)
        config = LoRAConfig(**fields, trainable_modules=HEADS, freeze_base_model=True)
        segmentation = SemanticSegmentation(network, config)
        print(row(f"EoMT, ViT-S, 448 px, {name}", segmentation, segmentation.synthetic_batch(2)), flush=True)


def run(folder: Path, limit: float) -> dict[str, float]:
    """Train by the command line, and return CPU seconds, peak memory in MiB and the last figures."""
    config = folder / "run.yaml"
    config.write_text(RUN)
    command = [sys.executable, "main.py", "fit", "--config", str(config), "--data.path", str(folder / "strips")]
    command += ["--model.feature_cache", str(limit), "--run_name", f"cache{limit:g}"]
    command += ["--trainer.default_root_dir", str(folder)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(output)
    summary = json.loads((folder / f"cache{limit:g}" / "training_summary.json").read_text())
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
        "best": summary["best"],
        "baseline": summary["baseline"],
    }


def runs() -> None:
    """Print the table of whole runs."""
    print("| feature_cache | CPU s | peak MiB | val_iou, step 0 | best |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for limit in (0.0, 4.0):
            found = run(Path(folder), limit)
            print(
                f"| {limit:g} | {found['cpu_seconds']:.0f} | {found['peak_mib']:.0f} | {found['baseline']:.4f} | "
                f"{found['best']:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    what = sys.argv[1:] or ["step", "run"]
    if "step" in what:
        steps()
    if "run" in what:
        runs()
