"""Which way of training is best on 35 small microscopy tiles? `python -m benchmarks.nuclei WEIGHTS DATA [OUT]`.

WEIGHTS is DINOv2-small in Hugging Face layout. DATA is a folder of images and masks with train and val.

Four ways of training configs/eomt_lora.yaml are compared. For each, one seed searches the learning rate over the same
five values; three other seeds are then run at the best rate. Every run is a process of its own on one thread. Runs that
exist are not repeated.
"""

import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

METHODS = {
    "heads only (frozen encoder)": ["--model.lora_config.enabled", "false"],
    "LoRA r=8, attention": ["--model.lora_config.target_modules", "[attention]"],
    "LoRA r=8, attention + MLP": ["--model.lora_config.target_modules", "[attention, mlp]"],
    "full fine-tuning": ["--model.lora_config", "null"],
}
RATES = ("3e-5", "1e-4", "3e-4", "1e-3", "3e-3")
SEEDS = (1, 2, 3)
STEPS = 150


def command(weights: str, data: str, out: Path, name: str, method: list[str], rate: str, seed: int) -> list[str]:
    """Return the command of one run."""
    return [
        *(sys.executable, "main.py", "fit", "--config", "configs/eomt_lora.yaml", *method),
        *("--data.path", data, "--data.num_workers", "0"),
        *("--model.network.encoder.backbone_name", "vit_small_patch14_dinov2"),
        *("--model.network.encoder.pretrained", weights, "--model.network.encoder.img_size", "[126, 126]"),
        *("--model.network.num_q", "16", "--model.num_points", "1024"),
        *("--model.lr", rate, "--model.head_lr", rate, "--seed_everything", str(seed)),
        *("--trainer.max_steps", str(STEPS), "--trainer.val_check_interval", "25"),
        *("--trainer.default_root_dir", str(out), "--run_name", name),
    ]


def run(weights: str, data: str, out: Path, method: str, rate: str, seed: int) -> dict[str, float]:
    """Train once, and return IoU, CPU seconds, peak memory in MiB, parameters, and bytes of the saved weights."""
    name = f"{list(METHODS).index(method)}_lr{rate}_seed{seed}"
    record = out / f"{name}.json"
    if not record.is_file():
        env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        process = subprocess.Popen(
            command(weights, data, out, name, METHODS[method], rate, seed),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{name} failed:\n{output}")
        summary = json.loads((out / name / "training_summary.json").read_text())
        result = {
            "iou": summary["best"],
            "step0": summary["baseline"],
            "parameters": summary["trainable_parameters"],
            "bytes": summary["adapter_bytes"] or kept_bytes(out / name),
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "memory": usage.ru_maxrss / 1024,
        }
        record.write_text(json.dumps(result))
        print(name, result, flush=True)
    return json.loads(record.read_text())


def kept_bytes(folder: Path) -> int:
    """Return the bytes of the trained tensors in the best checkpoint, for runs without an adapter folder."""
    import torch

    state = torch.load(next(folder.glob("best_lora_*.ckpt")), weights_only=True)["state_dict"]
    return sum(value.numel() * value.element_size() for value in state.values())


def threshold_baseline(data: str) -> float:
    """Return the mean IoU on val at the gray level that is best on train."""

    def pixels(split: str) -> tuple[np.ndarray, np.ndarray]:
        names = sorted(path.name for path in (Path(data) / split / "images").iterdir())
        images = [np.asarray(Image.open(Path(data) / split / "images" / name).convert("L")) for name in names]
        masks = [np.asarray(Image.open(Path(data) / split / "masks" / name)) for name in names]
        return np.stack(images).ravel(), np.stack(masks).ravel()

    def mean_iou(prediction: np.ndarray, truth: np.ndarray) -> float:
        scores = [((prediction == c) & (truth == c)).sum() / ((prediction == c) | (truth == c)).sum() for c in (0, 1)]
        return float(np.mean(scores))

    gray, truth = pixels("train")
    best = max(range(256), key=lambda level: mean_iou(gray > level, truth))
    gray, truth = pixels("val")
    return mean_iou(gray > best, truth)


def main() -> None:
    """Run everything, and print the table."""
    weights, data, out = sys.argv[1], sys.argv[2], Path(sys.argv[3] if len(sys.argv) > 3 else "runs/nuclei")
    out.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        searches = {
            method: [pool.submit(run, weights, data, out, method, rate, 0) for rate in RATES] for method in METHODS
        }
        rates = {
            method: max(zip(RATES, futures, strict=True), key=lambda pair: pair[1].result()["iou"])[0]
            for method, futures in searches.items()
        }
        finals = {
            method: [pool.submit(run, weights, data, out, method, rates[method], seed) for seed in SEEDS]
            for method in METHODS
        }
    print("| | lr | mean IoU (3 seeds) | spread | trained | CPU s | peak MiB | file MB |")
    print("|---|---|---|---|---|---|---|---|")
    print(f"| brightness threshold | - | {threshold_baseline(data):.3f} | - | 1 | - | - | - |")
    for method, futures in finals.items():
        results = [future.result() for future in futures]
        scores = [result["iou"] for result in results]
        row = [
            method,
            rates[method],
            f"{statistics.mean(scores):.3f}",
            f"{min(scores):.3f}-{max(scores):.3f}",
            f"{results[0]['parameters']:,}",
            f"{statistics.median(result['cpu_seconds'] for result in results):.0f}",
            f"{statistics.median(result['memory'] for result in results):.0f}",
            f"{results[0]['bytes'] / 1e6:.1f}",
        ]
        print("| " + " | ".join(row) + " |")
    print(
        {
            method: {rate: f.result()["iou"] for rate, f in zip(RATES, fs, strict=True)}
            for method, fs in searches.items()
        }
    )


if __name__ == "__main__":
    main()
