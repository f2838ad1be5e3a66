"""Image sizes of SAM 2: square or not, and which are refused."""

import pytest
import torch
from torch import Tensor
from transformers import Sam2Model

from eomt.errors import UserError
from tests.tiny_sam2 import make_image, make_points, make_sam2


def test_an_image_that_is_not_square_has_its_own_sizes_and_coordinates() -> None:
    network = make_sam2(img_size=(64, 160)).eval()
    seen: list[Tensor] = []
    network.model.prompt_encoder.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    points, labels = torch.tensor([[[[100.0, 20.0]]]]), torch.tensor([[[1]]])
    boxes = torch.tensor([[[3.0, 5.0, 120.0, 60.0]]])
    features = network.encode(make_image(1, 64, 160))
    assert [tuple(level.shape[2:]) for level in features[:3]] == [(4, 10), (8, 20), (16, 40)]
    assert network.mask_size == (16, 40)
    prediction = network.decode(features, points, labels, boxes)
    assert prediction.mask_logits.shape == (1, 1, 3, 16, 40)
    # the equation: sine and cosine of 2 pi (2 c - 1) G, c being the pixel's centre as a part of width and height
    encoder = network.model.prompt_encoder
    places = torch.tensor([[100.5 / 160, 20.5 / 64], [3.5 / 160, 5.5 / 64], [120.5 / 160, 60.5 / 64]])
    angles = 2 * torch.pi * (2 * places - 1) @ encoder.shared_embedding.positional_embedding
    expected = torch.cat((angles.sin(), angles.cos()), dim=-1) + encoder.point_embed.weight[[1, 2, 3]]
    torch.testing.assert_close(seen[0][0, 0, :3], expected, rtol=1e-4, atol=1e-4)


def test_a_square_size_set_on_the_network_is_transformers_own() -> None:
    network = make_sam2(img_size=96).eval()
    points, labels = make_points()
    theirs = Sam2Model(network.model.config).eval()
    theirs.load_state_dict(network.model.state_dict())
    image = make_image(2, 96, 96)
    pixels = (image / 255 - network.normalize.mean) / network.normalize.std
    expected = theirs(pixels, input_points=points, input_labels=labels).pred_masks
    torch.testing.assert_close(network(image, points, labels).mask_logits, expected)


@pytest.mark.parametrize("size", [(64, 80), 16, (0, 64)])
def test_image_sizes_that_do_not_fit_are_refused(size: int | tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"img_size: .* multiples of 32; \[\d+, \d+\] would do"):
        make_sam2(img_size=size)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match="image: 64 x 96 pixels, the network takes 64 x 64"):
        make_sam2().encode(make_image(1, 64, 96))
