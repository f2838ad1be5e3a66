"""Samples of images with one mask for each class they show."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nn_functional
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from datamodules.common.kept import KeptSamples
from datamodules.common.reading import orientation_of, read_pixels
from datamodules.common.sampling import PADDING_INDEX
from datamodules.common.zip_members import ImageFile
from datamodules.defects.annotations import AnnotatedImage
from datamodules.defects.prompt_files import ImagePrompts


def read_sample(sample: AnnotatedImage) -> tuple[Tensor, Tensor, Tensor]:
    """Return an image (3, H, W) uint8, its masks (N, H, W) bool, and their class ids (N,) int64, N may be 0.

    Raises:
        UserError: A file is damaged, or the annotation does not fit the image.
    """
    image = read_pixels(sample.image)
    height, width = image.shape[-2:]
    masks = sample.annotation.masks((height, width), orientation_of(sample.image))
    stacked = np.stack([*masks.values()]) if masks else np.zeros((0, height, width), dtype=bool)
    return image, torch.from_numpy(stacked), torch.tensor([*masks], dtype=torch.int64)


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks (N, H, W) bool so that none of them that holds a pixel becomes empty, (N, *size) bool."""
    if not len(masks):
        return masks.new_zeros((0, *size))
    # nearest-exact keeps to the pixel centers, as the image's resize does; nearest would be half a pixel off
    resized = F.resize(masks.to(torch.uint8), list(size), InterpolationMode.NEAREST_EXACT).bool()
    lost = masks.flatten(1).any(1) & ~resized.flatten(1).any(1)
    if lost.any():
        # narrower than the distance of the pixels that were looked at
        resized[lost] = nn_functional.adaptive_max_pool2d(masks[lost].float(), size) > 0
    return resized


class DefectDataset(Dataset[dict[str, Any]]):
    """Images at the network's size, with masks at their own.

    A sample holds `image` (3, *img_size) uint8 RGB, `masks` (N, H, W) bool at the size of the file, one for each
    class it shows, `class_ids` (N,) int64, and `name`. `PADDING_INDEX` gives the first image without masks and name.

    Args:
        samples: The files.
        img_size: Height and width of the images.
    """

    def __init__(self, samples: Sequence[AnnotatedImage], img_size: tuple[int, int]) -> None:
        self.samples = samples
        self.img_size = img_size

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, masks, class_ids = read_sample(self.samples[max(index, 0)])
        image = F.resize(image, list(self.img_size), antialias=True)
        if index == PADDING_INDEX:
            return {"image": image, "masks": masks[:0], "class_ids": class_ids[:0], "name": ""}
        return {"image": image, "masks": masks, "class_ids": class_ids, "name": self.samples[index].name}


class PromptedDataset(Dataset[dict[str, Any]]):
    """Images to predict, at the network's size, with what is asked about them; masks are not looked at.

    A sample holds `image` (3, *img_size) uint8 RGB, `size` (height, width) of the file, and `name`; with prompts also
    `prompts`, in pixels of the file, None for none; `labels` of the N objects; and their `class_ids` (N,) int64, None
    where some label of the image is no class.

    Args:
        files: Name and file of each image.
        img_size: Height and width of the images.
        prompts: What is asked about each image that has prompts; None where nothing is asked.
        class_ids: Class ids of the objects of each image that has prompts; None for one with a label that is no class.
    """

    def __init__(
        self,
        files: Mapping[str, ImageFile],
        img_size: tuple[int, int],
        prompts: Mapping[str, ImagePrompts] | None,
        class_ids: Mapping[str, Tensor | None],
    ) -> None:
        self.files = list(files.items())
        self.img_size = img_size
        self.prompts = prompts
        self.class_ids = class_ids

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, file = self.files[index]
        image = read_pixels(file)
        size = (image.shape[-2], image.shape[-1])
        return {"image": F.resize(image, list(self.img_size), antialias=True), "size": size} | self._asked(name)

    def blank(self) -> dict[str, Any]:
        """Return a sample without a name, with a black image."""
        image = torch.zeros(3, *self.img_size, dtype=torch.uint8)
        return {"image": image, "size": self.img_size} | self._asked("")

    def _asked(self, name: str) -> dict[str, Any]:
        if self.prompts is None:
            return {"name": name}
        asked = self.prompts.get(name)
        labels = [] if asked is None else asked.labels
        class_ids = self.class_ids.get(name, torch.zeros(0, dtype=torch.int64))
        prompts = None if asked is None else asked.prompts
        return {"name": name, "prompts": prompts, "labels": labels, "class_ids": class_ids}


class AugmentedDefectDataset(Dataset[dict[str, Any]]):
    """Samples for training, decoded once each, see `KeptSamples`: image and masks at the network's size.

    An index comes with the seed of its changes.

    Half of the images are mirrored, half are turned upside down, brightness and contrast vary by a fifth.

    Args:
        samples: The files.
        img_size: Height and width of images and masks.
        augment: Whether to change anything but the size; "mirror" leaves brightness and contrast as they are.
    """

    def __init__(
        self, samples: Sequence[AnnotatedImage], img_size: tuple[int, int], augment: bool | Literal["mirror"]
    ) -> None:
        self.samples = samples
        self.img_size = img_size
        self.augment = augment
        self.read = KeptSamples(self._decode)
        self.jitter = v2.ColorJitter(brightness=0.2, contrast=0.2)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: tuple[int, int] | int) -> dict[str, Any]:
        # Lightning's overfit_batches takes the sampler away, and with it the seeds
        position, seed = index if isinstance(index, tuple) else (index, index)
        image, masks, class_ids = self.read(position)
        if self.augment:
            with torch.random.fork_rng(devices=[]):
                # torch.manual_seed would seed the GPU's generator too, which belongs to the network
                torch.default_generator.manual_seed(seed)
                image, masks = self._change(image, masks)
        return {
            "image": F.resize(image, list(self.img_size), antialias=True),
            "masks": resize_masks(masks, self.img_size),
            "class_ids": class_ids,
            "name": self.samples[position].name,
        }

    def _decode(self, position: int) -> tuple[Tensor, Tensor, Tensor]:
        return read_sample(self.samples[position])

    def _change(self, image: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        flipped = [axis for axis in (-1, -2) if torch.rand(()) < 0.5]
        image, masks = image.flip(flipped), masks.flip(flipped)
        # before the resize, for the file's pixels are fewer
        return image if self.augment == "mirror" else self.jitter(image), masks


def collate_defects(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack the images of samples, list all the rest."""
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    return batch | {"image": torch.stack(batch["image"])}
