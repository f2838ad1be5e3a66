"""Images per second of a training pipeline, against that of EoMT's authors. `python -m benchmarks.pipeline`.

`python -m benchmarks.pipeline [ROUNDS [png] [jpeg] [small]]` measures some of the data alone.

Training samples of road scenes (1024 x 2048 pixels, with Cityscapes' label ids) and of small images (256 x 256) are
read from files, changed at random (scale, crop, mirror, colors), and put into batches: by this package's data modules,
and in the way of `benchmarks.pipeline_reference`. That is also measured without its change of hue, which this package
does not make.

Pixels are those of two photographs that scikit-learn brings, mirrored until they fill an image. Classes are cells
around random points, 12 of Cityscapes' 19 in each image, and 3 ignored labels.

This package is measured where it decodes every image anew, as with data that do not fit into the memory set aside for
decoded images, and where it has kept them from earlier epochs.

The ways take turns in every round. In one process, time is CPU time, which other processes on the machine disturb less;
with two workers it is wall-clock time of an epoch, and workers stay from one epoch to the next.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from scipy.spatial import cKDTree
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader

from benchmarks.pipeline_reference import ReferenceDataset, ReferenceTransform, collate_reference
from datamodules import Cityscapes, ImageMaskFolder
from datamodules.class_maps import CITYSCAPES_LABEL_IDS
from datamodules.common import kept
from datamodules.segmentation.data_module import SegmentationDataModule
from eomt.utils.labels import IGNORE_INDEX

Loader = Iterable[Any]
# of a label image: classes, ignored labels, and the cells that they fill
SHOWN, IGNORED, CELLS = 12, 3, 120
BATCH_SIZE, WORKERS, SCALES = 4, 2, (0.5, 2.0)
VALIDATION, WARM_UP = 2, 3
CITYSCAPES_FILES = (
    "leftImg8bit/{split}/town/town_{index:06d}_000000_leftImg8bit.png",
    "gtFine/{split}/town/town_{index:06d}_000000_gtFine_labelIds.png",
)
FOLDER_FILES = ("{split}/images/{index:06d}.jpg", "{split}/masks/{index:06d}.png")


@dataclass(frozen=True)
class Data:
    """Files, and what is made of them.

    Args:
        name: In the table.
        size: Height and width of an image.
        count: Number of training images.
        crop: Side of a training sample.
        files: Names of an image and its labels.
        module: Class of this package that reads them.
    """

    name: str
    size: tuple[int, int]
    count: int
    crop: int
    files: tuple[str, str]
    module: Callable[..., SegmentationDataModule]

    def write(self, folder: Path) -> None:
        """Write the images and their labels."""
        random = np.random.default_rng(0)
        for index in range(self.count + VALIDATION):
            split = "val" if index < VALIDATION else "train"
            image, labels = (folder / name.format(split=split, index=index) for name in self.files)
            for file in (image, labels):
                file.parent.mkdir(parents=True, exist_ok=True)
            # quality is of JPEG alone
            Image.fromarray(photograph(self.size, index)).save(image, quality=90)
            Image.fromarray(label_ids(self.size, random)).save(labels)

    def opened(self, folder: Path, num_workers: int) -> SegmentationDataModule:
        """Return this package's data module, ready to train."""
        data = self.module(
            folder, batch_size=BATCH_SIZE, crop_size=(self.crop, self.crop), num_workers=num_workers, scale_range=SCALES
        )
        data.setup("fit")
        return data


ROAD, SMALL = (1024, 2048), (256, 256)
folder_of_scenes = partial(ImageMaskFolder, class_map="cityscapes")
DATA = {
    "png": Data("road scenes, PNG of 1024 x 2048, crop 512", ROAD, 12, 512, CITYSCAPES_FILES, Cityscapes),
    "jpeg": Data("road scenes, JPEG of 1024 x 2048, crop 512", ROAD, 12, 512, FOLDER_FILES, folder_of_scenes),
    "small": Data("small images, JPEG of 256 x 256, crop 224", SMALL, 100, 224, FOLDER_FILES, folder_of_scenes),
}


def photograph(size: tuple[int, int], number: int) -> np.ndarray:
    """Return (H, W, 3) uint8 pixels of photographs, at another place for each number."""
    both = np.concatenate(load_sample_images().images, axis=1)
    moved = np.roll(both, (37 * number, 53 * number), axis=(0, 1))
    padding = [(0, max(0, wanted - length)) for wanted, length in zip(size, moved.shape, strict=False)]
    return np.pad(moved, [*padding, (0, 0)], mode="symmetric")[: size[0], : size[1]]


def label_ids(size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Return (H, W) uint8 of Cityscapes' label ids in cells around random points."""
    classes = [label for label, class_id in CITYSCAPES_LABEL_IDS.items() if class_id != IGNORE_INDEX]
    others = [label for label, class_id in CITYSCAPES_LABEL_IDS.items() if class_id == IGNORE_INDEX]
    used = np.concatenate([random.choice(classes, SHOWN, replace=False), random.choice(others, IGNORED, replace=False)])
    places = np.stack(np.mgrid[: size[0], : size[1]], axis=-1).reshape(-1, 2)
    cells = cKDTree(random.random((CELLS, 2)) * size).query(places)[1].reshape(size)
    return used[np.arange(CELLS) % len(used)][cells].astype(np.uint8)


def ways(data: Data, folder: Path, num_workers: int) -> dict[str, Loader]:
    """Return the loader of each way, the first of which is what the others are compared with."""
    loaders: dict[str, Loader] = {}
    pairs = data.opened(folder, 0).find_splits()["train"]
    for name, hue in (("EoMT's authors", True), ("EoMT's authors, without hue", False)):
        transform = ReferenceTransform((data.crop, data.crop), SCALES, hue)
        loaders[name] = DataLoader(
            ReferenceDataset(pairs, CITYSCAPES_LABEL_IDS, transform),
            BATCH_SIZE,
            shuffle=True,
            drop_last=True,
            collate_fn=collate_reference,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )
    for name, kept_bytes in (("this package", 0), ("this package, images kept", kept.KEPT_BYTES)):
        with mock.patch.object(kept, "KEPT_BYTES", kept_bytes):
            loaders[name] = data.opened(folder, num_workers).train_dataloader()
    return loaders


def measure(loaders: dict[str, Loader], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return the seconds of an epoch, for each way and round."""
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for loader in loaders.values():
        # workers start, and every one of them has seen most images in the end
        for _ in range(WARM_UP):
            exhaust(loader)
    for _ in range(rounds):
        for name, loader in loaders.items():
            start = clock()
            exhaust(loader)
            seconds[name].append(clock() - start)
    return seconds


def exhaust(loader: Loader) -> None:
    """Take all batches."""
    for _ in loader:
        pass


def check_seconds(data: Data, folder: Path, rounds: int) -> float:
    """Return the CPU seconds of the look at all files before training, for 1,000 images."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        data.opened(folder, 0)
        seconds.append(time.process_time() - start)
    return 1000 * statistics.median(seconds) / (data.count + VALIDATION)


def compare(data: Data, rounds: int) -> None:
    """Print the table of a data set."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data.write(folder)
        alone = measure(ways(data, folder, 0), rounds, time.process_time)
        together = measure(ways(data, folder, WORKERS), rounds, time.perf_counter)
        checked = check_seconds(data, folder, rounds)
    images = data.count // BATCH_SIZE * BATCH_SIZE
    slowest = [statistics.median(next(iter(seconds.values()))) for seconds in (alone, together)]
    print(f"| {data.name} | images/s | ratio | images/s, {WORKERS} workers | ratio |")
    print("|---|---|---|---|---|")
    for way in alone:
        cells = []
        for seconds, slow in zip((alone[way], together[way]), slowest, strict=True):
            least, middle, most = (images / value for value in (max(seconds), statistics.median(seconds), min(seconds)))
            cells += [f"{middle:.1f} ({least:.1f}-{most:.1f})", f"{slow / statistics.median(seconds):.1f}"]
        print(f"| {way} | {' | '.join(cells)} |")
    print(f"\nThe look at all files before training takes {checked:.1f} s for 1,000 images.\n", flush=True)


def main() -> None:
    """Measure, and print the tables."""
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for name in sys.argv[2:] or DATA:
        compare(DATA[name], rounds)


if __name__ == "__main__":
    main()
