"""Samples for networks that outline the object that a prompt points at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from datamodules.common.kept import KeptSamples
from datamodules.common.reading import read_pixels
from datamodules.common.sampling import PADDING_INDEX
from datamodules.common.zip_members import ImageFile
from datamodules.objects.annotation import AnnotatedImage, Grouping, Objects, group_objects
from datamodules.objects.datasets import read_annotated
from datamodules.objects.prompt_files import ImagePrompts, class_ids_of, match_prompts, read_prompts
from eomt.utils.packed_masks import PackedMasks


def read_promptable(sample: AnnotatedImage, grouping: Grouping) -> tuple[Tensor, Objects]:
    """Return an image (3, H, W) uint8, and the objects in it that can be prompted: a crowd holds many, and is none.

    Raises:
        UserError: A file is damaged, or the annotation does not fit the image.
    """
    image, annotated = read_annotated(sample)
    objects = group_objects(annotated, grouping)
    return image, objects.where(~objects.is_crowd)


class PromptableDataset(Dataset[dict[str, Any]]):
    """Images at the network's size, with masks at their own.

    A sample holds `image` (3, *img_size) uint8 RGB, `masks` (N, H, W) bool at the size of the file, one for each
    object, `class_ids` (N,) int64, and `name`. `PADDING_INDEX` gives the first image without masks and name.

    Args:
        samples: The files.
        img_size: Height and width of the images.
        grouping: What one object is.
    """

    def __init__(self, samples: Sequence[AnnotatedImage], img_size: tuple[int, int], grouping: Grouping) -> None:
        self.samples = samples
        self.img_size = img_size
        self.grouping = grouping

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, objects = read_promptable(self.samples[max(index, 0)], self.grouping)
        masks, class_ids = torch.from_numpy(objects.masks), torch.from_numpy(objects.class_ids)
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


def ask(
    files: Mapping[str, ImageFile],
    img_size: tuple[int, int],
    prompts: Path | None,
    class_names: Sequence[str],
    predicts_all: bool,
) -> PromptedDataset:
    """Return images to predict, with what a file asks about them.

    Args:
        files: Name and file of each image.
        img_size: Height and width of what the network takes.
        prompts: The file; None where nothing is asked.
        class_names: Names of the classes.
        predicts_all: Whether images that nothing is asked about are predicted too.

    Raises:
        UserError: The prompts cannot be read, or do not fit the images.
    """
    if prompts is None:
        return PromptedDataset(files, img_size, None, {})
    given = match_prompts(prompts, read_prompts(prompts, class_names), files, predicts_all)
    wanted = files if predicts_all else {name: file for name, file in files.items() if name in given}
    return PromptedDataset(wanted, img_size, given, class_ids_of(given, class_names))


class AugmentedPromptableDataset(Dataset[dict[str, Any]]):
    """Samples for training, decoded once each, see `KeptSamples`: image and masks at the network's size.

    An index comes with the seed of its changes.

    Half of the images are mirrored and half turned upside down, and brightness and contrast vary by a fifth, where that
    is wanted.

    Args:
        samples: The files.
        img_size: Height and width of images and masks.
        flip: Whether to mirror images both ways at random.
        color_jitter: Whether to vary brightness and contrast at random.
        grouping: What one object is.
    """

    def __init__(
        self,
        samples: Sequence[AnnotatedImage],
        img_size: tuple[int, int],
        flip: bool,
        color_jitter: bool,
        grouping: Grouping,
    ) -> None:
        self.samples = samples
        self.img_size = img_size
        self.flip = flip
        self.grouping = grouping
        self.read = KeptSamples(self._decode)
        self.color_jitter = v2.ColorJitter(brightness=0.2, contrast=0.2) if color_jitter else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: tuple[int, int] | int) -> dict[str, Any]:
        # Lightning's overfit_batches takes the sampler away, and with it the seeds
        position, seed = index if isinstance(index, tuple) else (index, index)
        image, bits, rectangles, class_ids = self.read(position)
        masks, flipped = PackedMasks(bits, rectangles, (image.shape[-2], image.shape[-1])), list[int]()
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the GPU's generator too, which belongs to the network
            torch.default_generator.manual_seed(seed)
            if self.flip:
                flipped = [axis for axis in (-1, -2) if torch.rand(()) < 0.5]
                image = image.flip(flipped)
            if self.color_jitter is not None:
                # before the resize, for the file's pixels are fewer
                image = self.color_jitter(image)
        return {
            "image": F.resize(image, list(self.img_size), antialias=True),
            "masks": masks.resized(self.img_size, flipped),
            "class_ids": class_ids,
            "name": self.samples[position].name,
        }

    def _decode(self, position: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        image, objects = read_promptable(self.samples[position], self.grouping)
        masks = PackedMasks.pack(objects.cropped, objects.size)
        return image, masks.bits, masks.rectangles, torch.from_numpy(objects.class_ids)
