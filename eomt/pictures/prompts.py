"""Prompts over images: boxes as outlines, clicks as dots."""

import torch
from PIL import ImageDraw
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from eomt.pictures.colors import Color
from eomt.prompts import Prompts

PROMPT: Color = (0, 255, 255)
# around a dot, for images as bright as it
EDGE: Color = (0, 0, 0)


def draw_prompts(image: Tensor, prompts: Prompts) -> Tensor:
    """Draw the prompts of an image's objects over it.

    Args:
        image: uint8 `(3, H, W)`.
        prompts: Boxes or clicks in pixels of the image; what is no click (a label below 0) is left out.

    Returns:
        uint8 `(3, H, W)`, a new tensor.
    """
    picture = to_pil_image(image)
    draw = ImageDraw.Draw(picture)
    # so large that it is still seen where the picture is shrunk
    thickness = max(1, image.shape[-1] // 500)
    for box in [] if prompts.boxes is None else prompts.boxes.tolist():
        draw.rectangle(box, outline=PROMPT, width=thickness)
    if prompts.points is not None and prompts.labels is not None:
        radius = 2 * thickness
        for x, y in prompts.points[prompts.labels >= 0].tolist():
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), PROMPT, EDGE)
    return torch.as_tensor(pil_to_tensor(picture))
