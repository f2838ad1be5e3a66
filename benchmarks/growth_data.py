"""Data sets of any number of tiny images, and what the program does with all of their entries before it trains."""

import csv
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from callbacks.run.metrics_file import MetricsFile
from datamodules import ImageMaskFolder, MorphFaces, Severstal, VQACsv
from datamodules.common.splits import read_split_record
from datamodules.questions.answer_weights import weigh_answers
from eomt.metrics.morph import MorphMetric
from eomt.metrics.vqa import VQAMetric

# of a file system, the names that one file may have
MOST_LINKS = 10_000
SIDE = 16
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
Work = Callable[[Path, int], object]


def write_png(file: Path, pixels: np.ndarray) -> None:
    """Write (H, W) or (H, W, 3) uint8 pixels; ten times as fast as a library that can do more."""
    rows = pixels.reshape(len(pixels), -1)
    raw = np.concatenate([np.zeros((len(rows), 1), np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", pixels.shape[1], len(pixels), 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(raw, 1)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def smooth_pictures(number: int) -> Iterator[np.ndarray]:
    """Yield pictures (SIDE, SIDE, 3) uint8 with the spectrum of photos: the finer a wave, the weaker it is."""
    random = np.random.default_rng(number)
    waves = np.cos(np.pi * np.outer(np.arange(6), np.arange(SIDE) + 0.5) / SIDE)
    strength = 25 / (1 + np.add.outer(np.arange(6), np.arange(6))) ** 1.2
    for _ in range(number):
        gray = waves.T @ (strength * random.normal(size=(6, 6))) @ waves
        tint = random.normal(0, 12, 3)
        yield (128 + gray[..., None] + tint + random.normal(0, 3, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)


def write_data(folder: Path, number: int) -> None:
    """Write smooth images, all different, and what four data modules ask for beside them, in links to these.

    Args:
        folder: It need not exist.
        number: Of the images.
    """
    names = ("images", "masks", "faces/bonafide", "faces/morph/blend")
    images, masks, bona_fide, morph = (folder / name for name in names)
    for place in (images, masks, bona_fide, morph):
        place.mkdir(parents=True)
    for index, picture in enumerate(smooth_pictures(number)):
        image = images / f"{index:06d}.png"
        write_png(image, picture)
        source = masks / f"{index - index % MOST_LINKS:06d}.png"
        if index % MOST_LINKS:
            (masks / image.name).hardlink_to(source)
        else:
            write_png(source, np.repeat(np.arange(2, dtype=np.uint8), SIDE * SIDE // 2).reshape(SIDE, SIDE))
        # two photos of each person, and a morph of each pair of neighbors
        person = index // 4 * 2
        photo = bona_fide / f"id{person + index % 2:06d}_{index % 4}.png"
        (photo if index % 4 < 3 else morph / f"id{person:06d}_id{person + 1:06d}.png").hardlink_to(image)
    (folder / "train_images").symlink_to(images)
    with (folder / "train.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ImageId", "ClassId", "EncodedPixels"])
        table.writerows([f"{index:06d}.png", 1 + index % 4, f"{1 + index % 200} 9"] for index in range(number))
    with (folder / "questions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "question", "answer", "type"])
        table.writerows(
            [f"{index:06d}.png", f"what is number {index}", WORDS[index % 10], "object"] for index in range(number)
        )


def pairs_of_masks(folder: Path, number: int) -> None:
    """Find, split, look at and count images and masks, and write and read the record of the split."""
    data = ImageMaskFolder(folder, batch_size=1)
    data.setup("fit")
    record = folder / "splits.json"
    record.write_text(json.dumps(data.split_record, indent=1))
    read_split_record(record, [name for part in data.split_record.values() for name in part])


def kaggle_table(folder: Path, number: int) -> None:
    """Read Severstal's table, look for copies by content, split by classes, and look at every image."""
    data = Severstal(folder, img_size=SIDE)
    data.setup(None)
    assert sum(map(len, data.split_record.values())) == number


def faces(folder: Path, number: int) -> None:
    """Look for copies by pixels, split people, refuse leaks, and look for what of a file tells the class."""
    data = MorphFaces(folder / "faces", batch_size=1, img_size=SIDE, identity_pattern=r"id\d+")
    data.setup(None)


def questions(folder: Path, number: int) -> None:
    """Read a table of questions, find their images, split these, and find the vocabulary."""
    data = VQACsv(folder / "questions.csv", image_folder=folder / "images", val_fraction=0.1)
    assert len(data.answers) == len(WORDS)
    assert len(data.rows("train")) + len(data.rows("val")) == number


def metric_of_morphs(folder: Path, number: int) -> None:
    """Compute the error rates of scores with their bootstrap."""
    metric = MorphMetric()
    scores = torch.rand(number, generator=torch.Generator().manual_seed(0))
    metric.update(
        scores, torch.arange(number) % 2, ["blend"] * number, ["set"] * number, [str(index) for index in range(number)]
    )
    metric.compute()


def metric_of_answers(folder: Path, number: int) -> None:
    """Compute the scores of answers."""
    metric = VQAMetric(WORDS)
    answers = [WORDS[index % 7] for index in range(number)]
    names = [str(index) for index in range(number)]
    metric.update(answers[::-1], [[answer] for answer in answers], answers, ["object"] * number, names, "en")
    metric.compute()


def rows_of_a_run(folder: Path, number: int) -> None:
    """Log a row of figures at each step, as a run does that somebody follows."""
    metrics = MetricsFile(folder / "metrics.csv")
    for step in range(number):
        metrics.add(step, {"train_loss": 1.0 / (1 + step)})
        metrics.save_if_due()
    metrics.save()


def weights_of_answers(folder: Path, number: int) -> None:
    """Weigh a vocabulary by how often its answers occur."""
    counts = {str(index): 1 + 10 * number // (1 + index) for index in range(number)}
    weigh_answers(counts, "inverse", 0.999, 1.5, 1)


WORK: dict[str, Work] = {
    "ImageMaskFolder: files, split, labels, record": pairs_of_masks,
    "Severstal: table, copies, split, files": kaggle_table,
    "MorphFaces: copies, people, leaks, files": faces,
    "VQACsv: table, images, split, vocabulary": questions,
    "MorphMetric: rates and bootstrap": metric_of_morphs,
    "VQAMetric: scores": metric_of_answers,
    "metrics.csv: a row a step": rows_of_a_run,
    "answer weights: a vocabulary": weights_of_answers,
}
