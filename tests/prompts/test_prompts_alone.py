"""Answers from the prompt alone, against a loop over pixels."""

import torch

from eomt.metrics.constant_answers import BestConstantRule
from eomt.prompts import Prompts, evaluation_prompts
from eomt.prompts.prompts_alone import NUM_RADII, masks_of_prompts

SIZE = (12, 20)


def blobs() -> torch.Tensor:
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 2:7, 3:11] = True
    masks[1, 8:11, 15:18] = True
    return masks


def test_a_box_is_filled_to_its_last_pixel() -> None:
    """15.4: the rival of a box."""
    masks = blobs()
    found = masks_of_prompts(evaluation_prompts(masks, "a", [0, 1], "box"), SIZE)
    assert torch.equal(found, masks[None])


def test_clicks_are_discs_of_falling_size() -> None:
    """15.4: the rivals of clicks."""
    prompts = Prompts(torch.tensor([[[3.0, 4.0], [15.0, 6.0]]]), torch.ones(1, 2, dtype=torch.int32), None)
    found = masks_of_prompts(prompts, SIZE)
    assert found.shape == (NUM_RADII, 1, *SIZE)
    for index, discs in enumerate(found[:, 0]):
        radius = 12 / 2 ** (index / 2)
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                distance = min(((x - 3) ** 2 + (y - 4) ** 2) ** 0.5, ((x - 15) ** 2 + (y - 6) ** 2) ** 0.5)
                assert bool(discs[y, x]) == (distance <= radius + 1e-5)


def test_the_best_rule_is_that_of_the_best_mean_over_images() -> None:
    """15.4: one rule for all objects; images weigh alike, as in the figure beside it."""
    masks = blobs()
    metric = BestConstantRule(2)
    whole = torch.ones_like(masks)
    metric.update(torch.stack([masks, whole]), masks)
    metric.update(torch.stack([torch.zeros_like(masks[:1]), whole[:1]]), masks[:1])
    # rule 0: (1 + 0) / 2; rule 1: ((40 + 9) / 2 / 240 + 40 / 240) / 2
    assert metric.compute()["iou"] == 0.5
    assert metric.compute()["dice"] == 0.5
