"""Training of the vision encoder in configs/quickstart/vqa_base: `python -m configs.quickstart.tiny_dinov2 FOLDER`.

In drawn scenes, every patch learns the shape and the color of the object that covers it, and its own position. Takes
ten minutes on a core.
"""

import sys
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from datamodules.generated.shapes.scenes import COLORS, SHAPES, SIZE, ShapeScene, make_scene, render_shapes
from eomt.models.parts.pixels import PixelNormalization

PATCH, WIDTH, STEPS, BATCH, SCENES = 7, 64, 3000, 64, 10000
CONFIG = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "patch_size": PATCH,
    "image_size": SIZE,
}
GRID = SIZE // PATCH
NOTHING = 0


def labels(scene: ShapeScene) -> np.ndarray:
    """Return 1 + the number of the shape and of the color of the object at each patch, 0 for none, `(2, h, w)`."""
    found = np.full((2, GRID, GRID), NOTHING)
    middles = (np.arange(GRID) + 0.5) * PATCH
    for thing in scene.things:
        inside = np.hypot(middles[:, None] - thing.row, middles - thing.column) < thing.radius
        found[:, inside] = np.array([[1 + SHAPES.index(thing.shape)], [1 + COLORS.index(thing.color)]])
    return found


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images, uint8 `(B, 3, H, W)`, and labels, `(B, 2, h w)`, without end; the scenes are drawn once."""
    scenes = [make_scene(np.random.default_rng([1, number])) for number in range(SCENES)]
    pictures = [
        render_shapes(scene, "plain", np.random.default_rng([2, number])) for number, scene in enumerate(scenes)
    ]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    targets = torch.from_numpy(np.stack([labels(scene) for scene in scenes])).flatten(2)
    while True:
        for chosen in torch.randperm(SCENES).split(BATCH):
            yield images[chosen], targets[chosen]


def main() -> None:
    """Train the encoder, and save it."""
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**CONFIG))
    sizes = [1 + len(SHAPES), 1 + len(COLORS), 2]
    head = nn.Linear(WIDTH, sum(sizes))
    middles = torch.linspace(-1, 1, GRID)
    place = torch.cartesian_prod(middles, middles)  # (h w, 2)
    normalize = PixelNormalization()
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    for step, (images, target) in zip(range(STEPS), batches(), strict=False):
        *logits, found = head(model(normalize(images)).last_hidden_state[:, 1:]).split(sizes, -1)
        loss = sum(F.cross_entropy(part.flatten(0, 1), target[:, kind].flatten()) for kind, part in enumerate(logits))
        loss = loss + F.mse_loss(found, place.expand_as(found))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            things = target[:, 0] != NOTHING
            right = [(part.argmax(-1) == target[:, kind])[things] for kind, part in enumerate(logits)]
            print(f"step {step}: loss {loss:.3f}, of things " + ", ".join(f"{hit.float().mean():.3f}" for hit in right))
    model.save_pretrained(sys.argv[1])


if __name__ == "__main__":
    main()
