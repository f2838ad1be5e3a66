"""How many labels does what need? `python -m benchmarks.classification WEIGHTS DATA OUT`.

WEIGHTS is DINOv2-small in Hugging Face layout, DATA the folder of Fashion-MNIST's four files (Debian's package
dataset-fashion-mnist puts them into /usr/share/datasets/fashion-mnist). OUT is a JSON file, which is filled run by run;
runs that stand there are not repeated.

A linear probe of the frozen encoder, LoRA and full fine-tuning learn from 100 images of each class. Seed 0 searches the
learning rate of each on 500 other training images; seeds 1, 2 and 3 are then tested at the best rate on the first 2,000
test images. One thread, no augmentation, one batch size, the same schedule.
"""

import gzip
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score
from torchvision.transforms.v2.functional import resize

from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.models import ImageClassifier, ViT
from eomt.utils.files import write_file

SIDE, BATCH, CLASSES = 56, 32, 10
TRAIN_OF_CLASS, VAL, TEST = 100, 500, 2000
WARMUP, WEIGHT_DECAY = 0.1, 0.05
# method -> epochs, learning rates
METHODS: dict[str, tuple[int, tuple[float, ...]]] = {
    "linear probe": (100, (3e-4, 1e-3, 3e-3, 1e-2)),
    "LoRA r=8, attention": (4, (3e-4, 1e-3, 3e-3, 1e-2)),
    "full fine-tuning": (4, (1e-5, 3e-5, 1e-4, 3e-4)),
}
SEEDS = (1, 2, 3)
Split = tuple[Tensor, Tensor]


def read_idx(file: Path, header: int) -> np.ndarray:
    """Return the bytes of a file of MNIST's behind its header."""
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=header)


def read_images(folder: Path, part: str) -> Split:
    """Return images, uint8 `(N, 3, SIDE, SIDE)`, and labels, `(N,)`, of "train" or "t10k"."""
    pixels = read_idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).copy()
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int64)
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def enlarged(split: Split) -> Split:
    """Return images in color at the network's size."""
    return resize(split[0], [SIDE, SIDE], antialias=True).expand(-1, 3, -1, -1).contiguous(), split[1]


def splits(folder: Path) -> dict[str, Split]:
    """Return what is trained on, chosen by and tested."""
    images, labels = read_images(folder, "train")
    train = torch.cat([torch.nonzero(labels == label)[:TRAIN_OF_CLASS, 0] for label in range(CLASSES)])
    others = torch.ones(len(labels), dtype=torch.bool)
    others[train] = False
    val = torch.nonzero(others)[:VAL, 0]
    tested = read_images(folder, "t10k")
    return {
        "train": enlarged((images[train], labels[train])),
        "val": enlarged((images[val], labels[val])),
        "test": enlarged((tested[0][:TEST], tested[1][:TEST])),
    }


def make_network(weights: str, method: str, seed: int) -> ImageClassifier:
    """Return a network that trains what the method trains."""
    torch.manual_seed(seed)
    encoder = ViT("vit_small_patch14_dinov2", (SIDE, SIDE), pretrained=weights)
    network = ImageClassifier(encoder, CLASSES, pooling="cls+mean")
    if method == "LoRA r=8, attention":
        apply_lora(network, LoRAConfig(rank=8, target_modules=["attention"], freeze_base_model=True))
    if method == "linear probe":
        encoder.requires_grad_(False)
    return network


@torch.no_grad()
def in_batches(function: nn.Module | Any, inputs: Tensor) -> Tensor:
    """Return a function of all inputs."""
    return torch.cat([function(part) for part in inputs.split(100)])


def train(model: nn.Module, split: Split, epochs: int, lr: float, seed: int) -> None:
    """Train with AdamW, a warm-up and half a cosine."""
    inputs, labels = split
    random = torch.Generator().manual_seed(seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    total = epochs * (len(labels) // BATCH)
    rising = round(WARMUP * total)

    def factor(step: int) -> float:
        done = (step - rising) / max(1, total - rising)
        return (step + 1) / rising if step < rising else 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=random)
        for chosen in order[: len(order) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(model(inputs[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
    model.eval()


def run(weights: str, data: dict[str, Split], method: str, lr: float, seed: int, part: str) -> dict[str, float]:
    """Train once, and return figures of a part, CPU seconds of the training and the number of trained parameters."""
    network = make_network(weights, method, seed)
    epochs, _ = METHODS[method]
    begin = time.process_time()
    if method == "linear probe":
        features = {name: (in_batches(network.eval().features, data[name][0]), data[name][1]) for name in ("train",)}
        train(network.classifier, features["train"], epochs, lr, seed)
    else:
        train(network, data["train"], epochs, lr, seed)
    seconds = time.process_time() - begin
    logits = in_batches(network.eval(), data[part][0])
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return figures(logits, data[part][1]) | {"seconds": seconds, "trained": trained}


def figures(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy and macro F1."""
    return {
        "accuracy": float(multiclass_accuracy(scores, labels, CLASSES, average="micro")),
        "f1": float(multiclass_f1_score(scores, labels, CLASSES, average="macro")),
    }


def rivals(weights: str, data: dict[str, Split]) -> dict[str, dict[str, float]]:
    """Return the figures of what learns nothing: one answer for all, and the nearest mean of a class's features."""
    network = make_network(weights, "linear probe", 0).eval()
    begin = time.process_time()
    features, labels = in_batches(network.features, data["train"][0]), data["train"][1]
    means = torch.stack([F.normalize(features, dim=1)[labels == label].mean(0) for label in range(CLASSES)])
    seconds = time.process_time() - begin
    test = F.normalize(in_batches(network.features, data["test"][0]), dim=1)
    one = torch.zeros(len(test), CLASSES)
    one[:, 0] = 1
    return {
        "one class for all": figures(one, data["test"][1]) | {"seconds": 0.0},
        "nearest class mean": figures(test @ F.normalize(means, dim=1).T, data["test"][1]) | {"seconds": seconds},
    }


def main() -> None:
    """Run what is missing, and print the tables."""
    weights, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    done: dict[str, dict[str, float]] = json.loads(out.read_text()) if out.is_file() else {}
    data = splits(folder)

    def once(method: str, lr: float, seed: int, part: str) -> dict[str, float]:
        name = f"{method} lr {lr} seed {seed} {part}"
        if name not in done:
            done[name] = run(weights, data, method, lr, seed, part)
            write_file(out, lambda beside: beside.write_text(json.dumps(done, indent=1)))
            print(name, done[name], flush=True)
        return done[name]

    for name, found in rivals(weights, data).items():
        print(f"| {name} | - | {found['accuracy']:.3f} | - | {found['f1']:.3f} | - | {found['seconds']:.0f} | - |")
    for method, (_, rates) in METHODS.items():
        searched = {lr: once(method, lr, 0, "val")["accuracy"] for lr in rates}
        best = max(searched, key=lambda lr: searched[lr])
        found_runs = [once(method, best, seed, "test") for seed in SEEDS]
        accuracy = [found["accuracy"] for found in found_runs]
        f1, seconds = (statistics.mean(found[key] for found in found_runs) for key in ("f1", "seconds"))
        trained = int(found_runs[0]["trained"])
        print(
            f"| {method} | {best:g} | {statistics.mean(accuracy):.3f} | {min(accuracy):.3f}-{max(accuracy):.3f} | "
            f"{f1:.3f} | {trained:,} | {seconds:.0f} | {4e-6 * trained:.2f} |"
        )
        print("search: " + ", ".join(f"{lr:g}: {value:.3f}" for lr, value in searched.items()), flush=True)


if __name__ == "__main__":
    main()
