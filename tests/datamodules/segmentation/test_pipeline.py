"""What the benchmark of the training pipeline compares shows the same."""

from functools import partial
from pathlib import Path

import torch

from benchmarks.pipeline import FOLDER_FILES, Data
from benchmarks.pipeline_reference import ReferenceDataset, ReferenceTransform
from datamodules import ImageMaskFolder
from datamodules.class_maps import CITYSCAPES_LABEL_IDS
from eomt.utils.labels import IGNORE_INDEX


def test_the_masks_of_the_reference_are_those_of_this_package(tmp_path: Path) -> None:
    module = partial(ImageMaskFolder, class_map="cityscapes", flip=False, color_jitter=False)
    data = Data("small", (32, 32), 4, 32, FOLDER_FILES, module)
    data.write(tmp_path)
    ours = data.opened(tmp_path, 0)
    pairs = ours.find_splits()["val"]
    transform = ReferenceTransform((32, 32), (1.0, 1.0), hue=True)
    reference = ReferenceDataset(pairs, CITYSCAPES_LABEL_IDS, transform)
    for index, batch in enumerate(ours.val_dataloader()):
        image, target = reference[index]
        assert image.dtype == torch.uint8
        assert image.shape == batch["image"][0].shape
        (mask,) = batch["mask"]
        found = torch.full_like(mask, IGNORE_INDEX)
        for label, shown in zip(target["labels"].tolist(), target["masks"], strict=True):
            found[shown] = label
        # half of the images are mirrored
        assert torch.equal(found, mask) or torch.equal(found, mask.flip(-1))
