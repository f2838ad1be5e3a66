"""Prompts for training, drawn from the true masks as the trainer of SAM 2 (Ravi et al., 2024) draws them.

Random numbers come from a generator on the CPU (None: the global one), whatever device the masks are on, so that a
seed means the same prompts everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from eomt.errors import UserError
from eomt.prompts.coordinates import Prompts, nth_pixel, tight_boxes

NOISE_REFERENCE = 1024
"""The size in pixels of the side of an image that `max_noise` refers to."""


@dataclass
class PromptSampling:
    """How objects are prompted in training."""

    box_probability: float = 0.5
    """How often a batch is prompted with boxes instead of one point per object; 0 is points only, 1 boxes only."""
    box_noise: float = 0.1
    """The most that an edge of a box moves, as a share of the box's side; 0 is tight boxes."""
    max_noise: float = 20.0
    """The most that an edge of a box moves, in pixels of an image 1024 wide and high."""
    correction_clicks: int = 7
    """Clicks that follow, each into what the last prediction got wrong; 0 switches them off."""
    max_objects: int = 4
    """Objects per image, chosen at random where there are more; 1 is one object per image."""

    def __post_init__(self) -> None:
        for name, good, allowed in (
            ("box_probability", 0 <= self.box_probability <= 1, "0 to 1"),
            ("box_noise", 0 <= self.box_noise < 0.5, "at least 0 and below 0.5"),
            ("max_noise", self.max_noise >= 0, "at least 0"),
            ("correction_clicks", self.correction_clicks >= 0, "at least 0"),
            ("max_objects", self.max_objects >= 1, "at least 1"),
        ):
            if not good:
                raise UserError(f"{name}: {getattr(self, name)!r}; must be {allowed}")


def sample_objects(
    masks: Sequence[Tensor], max_objects: int, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Choose objects of each image of a batch and pad them to the largest number.

    There is at least one place, so that a batch without any object still runs through the network.

    Args:
        masks: Per image, bool `(N_i, H, W)`.
        max_objects: Objects that are kept of an image, chosen at random.
        generator: On the CPU.

    Returns:
        Masks `(B, N, H, W)` and which of them are objects, bool `(B, N)`; the others are empty.
    """
    chosen = [image[torch.randperm(len(image), generator=generator)[:max_objects]] for image in masks]
    places = max(1, *map(len, chosen))
    padded = torch.stack([F.pad(image, (0, 0, 0, 0, 0, places - len(image))) for image in chosen])
    counts = torch.tensor([len(image) for image in chosen])
    return padded, (torch.arange(places) < counts[:, None]).to(padded.device)


def sample_box(
    masks: Tensor, noise: float = 0.1, max_noise: float = 20.0, generator: Generator | None = None
) -> Tensor:
    """Draw boxes: each edge of the tight box moves by a uniform amount, and stays inside the image.

    Args:
        masks: bool `(..., H, W)`; an empty one is prompted with the whole image.
        noise: The most that an edge moves, as a share of the box's side.
        max_noise: The most that an edge moves, in pixels of an image 1024 wide and high.
        generator: On the CPU.

    Returns:
        float32 `(..., 4)`
    """
    height, width = masks.shape[-2:]
    boxes = tight_boxes(masks)
    image = torch.tensor([width, height, width, height], device=masks.device)
    side = (boxes[..., 2:] - boxes[..., :2]).tile(2)  # width, height, width, height
    amplitude = torch.minimum(noise * side, max_noise * image / NOISE_REFERENCE)
    drawn = 2 * torch.rand(boxes.shape, generator=generator).to(masks.device) - 1
    return (boxes + drawn * amplitude).clamp(min=torch.zeros_like(image), max=image - 1)


def sample_point(masks: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw one pixel of each mask, all equally likely.

    Args:
        masks: bool `(..., H, W)`; an empty one is answered by a negative point anywhere.
        generator: On the CPU.

    Returns:
        Points, float32 `(..., 2)`, and labels, int32 `(...)`.
    """
    return _click(masks, masks, generator)


def sample_correction(logits: Tensor, targets: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
    """Click on one wrong pixel of each prediction, all equally likely: a miss is labeled 1, a false alarm 0.

    Where nothing is wrong the click is on the object. (SAM 2's trainer clicks off the object there.)

    Args:
        logits: Mask logits `(B, N, h, w)`, above 0 on the object; enlarged to the targets' size.
        targets: bool `(B, N, H, W)`.
        generator: On the CPU.

    Returns:
        Points, float32 `(B, N, 2)`, and labels, int32 `(B, N)`.
    """
    prediction = F.interpolate(logits.detach().float(), targets.shape[-2:], mode="bilinear") > 0
    wrong = prediction ^ targets
    return _click(torch.where(wrong.any(dim=(-2, -1), keepdim=True), wrong, targets), targets, generator)


def sample_prompts(
    masks: Tensor, valid: Tensor, sampling: PromptSampling, generator: Generator | None = None
) -> Prompts:
    """Draw the first prompt of every object: boxes for the whole batch, or one point per object.

    A batch has one kind, so that no object's prompt needs padding, which would change its prediction.

    Args:
        masks: bool `(B, N, H, W)`.
        valid: Which places hold an object, bool `(B, N)`.
        sampling: Probabilities and noise.
        generator: On the CPU.
    """
    if float(torch.rand((), generator=generator)) < sampling.box_probability:
        boxes = sample_box(masks, sampling.box_noise, sampling.max_noise, generator)
        return Prompts(None, None, boxes).padded_where(valid)
    return Prompts(None, None, None).with_click(*sample_point(masks, generator)).padded_where(valid)


def add_correction(
    prompts: Prompts, logits: Tensor, targets: Tensor, valid: Tensor, generator: Generator | None = None
) -> Prompts:
    """Add one `sample_correction` to the prompts of every object; shapes as there."""
    return prompts.with_click(*sample_correction(logits, targets, generator)).padded_where(valid)


def _click(region: Tensor, targets: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Draw a pixel of each region (of the image, if it is empty), and label it with what the target is there."""
    region = region | ~region.any(dim=(-2, -1), keepdim=True)
    area = region.sum(dim=(-2, -1))
    # float32 has too few values to draw from a million pixels alike
    drawn = torch.rand(area.shape, dtype=torch.float64, generator=generator).to(area.device)
    point = nth_pixel(region, (drawn * area).long())
    index = point[..., 1] * targets.shape[-1] + point[..., 0]
    label = targets.flatten(-2).gather(-1, index.unsqueeze(-1)).squeeze(-1)
    return point.float(), label.int()
