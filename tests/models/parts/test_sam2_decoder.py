"""The mask decoder of SAM 2 against transformers' own."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eomt.models.parts.sam2_decoder import predict_masks, use_remade_sums
from eomt.models.parts.sam2_outputs import SAM2Features
from tests.tiny_sam2 import WIDTH, tiny_model

SIZE = (4, 6)


def make_inputs(shared: bool) -> tuple[SAM2Features, Tensor, Tensor, Tensor]:
    """Features of two images, positions, and three prompts of each; mask prompts of their own if not `shared`."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    height, width = SIZE
    features = SAM2Features(
        draw(2, WIDTH, height, width),
        draw(2, WIDTH // 4, 2 * height, 2 * width),
        draw(2, WIDTH // 8, 4 * height, 4 * width),
        torch.empty(2, 0),
    )
    dense = draw(1, 1, WIDTH, height, width) if shared else draw(2, 3, WIDTH, height, width)
    return features, draw(1, WIDTH, height, width), draw(2, 3, 2, WIDTH), dense


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_masks_and_gradients_are_those_of_transformers(shared: bool, multimask: bool) -> None:
    theirs: Any = tiny_model().double().train().mask_decoder
    ours = copy.deepcopy(theirs)
    use_remade_sums(ours.transformer)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    features, positions, sparse, dense = make_inputs(shared)
    found = predict_masks(ours, features, positions, sparse, dense, multimask)

    # one prompt for each image, as transformers has it for mask prompts
    repeated = [level.repeat_interleave(3, 0) for level in features[:3]]
    masks, scores, _, object_logits = theirs(
        image_embeddings=repeated[0],
        image_positional_embeddings=positions.expand(6, -1, -1, -1),
        sparse_prompt_embeddings=sparse.flatten(0, 1)[:, None],
        dense_prompt_embeddings=dense.expand(2, 3, -1, -1, -1).flatten(0, 1),
        multimask_output=multimask,
        high_resolution_features=[repeated[2], repeated[1]],
    )
    expected = [part.reshape(2, 3, *part.shape[2:]) for part in (masks, scores, object_logits)]
    assert found.mask_logits.shape == (2, 3, 3 if multimask else 1, 16, 24)
    torch.testing.assert_close(list(found), expected)

    inputs = [*features[:3], positions, sparse, dense]
    torch.testing.assert_close(gradients(ours, list(found), inputs), gradients(theirs, expected, inputs))


def gradients(decoder: nn.Module, outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor | None]:
    """Gradients of a loss in which every value weighs differently; of masks that were not asked for they are zeros."""
    generator = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in outputs)
    return list(torch.autograd.grad(loss, [*inputs, *decoder.parameters()], allow_unused=True))
