"""Objects as targets of the criterion: against transformers' EomtLoss, the definition, and index maps."""

import pytest
import torch
from torch import Tensor

from eomt.errors import UserError
from eomt.losses.point_targets import ObjectTargets
from tests.losses.test_mask_classification import (
    NUM_CLASSES,
    LargestTensor,
    LossInside,
    classes_as_objects,
    fixed_loss,
    gradients,
    make_mask,
    make_predictions,
    plain_criterion,
    transformers_losses,
)


def make_objects() -> tuple[list[Tensor], list[Tensor]]:
    """Two images of 24 x 20: four objects, two of which overlap and two of one class; and two, one at the edge."""
    masks = [torch.zeros(4, 24, 20, dtype=torch.bool), torch.zeros(2, 24, 20, dtype=torch.bool)]
    masks[0][0, 3:15, 4:12] = masks[0][1, 10:, 8:] = masks[0][2, :4, 14:] = masks[0][3, 5:9, 5:9] = True
    masks[1][0, :9, :9] = masks[1][1, 5:20, 7:15] = True
    return masks, [torch.tensor([1, 4, 1, 5]), torch.tensor([2, 3])]


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("num_queries", [8, 3])  # 3: fewer than the objects of the first image
def test_losses_and_gradients_equal_transformers(
    num_layers: int, num_queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, objects = fixed_loss(), make_objects()
    ours, theirs = (make_predictions(num_layers, num_queries=num_queries) for _ in range(2))

    result = loss(ours, ObjectTargets(*objects))
    expected = transformers_losses(loss, theirs, *objects, monkeypatch)

    assert result.keys() == expected.keys()
    for name, value in result.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    result["loss"].backward()
    expected["loss"].backward()
    for ours_gradient, theirs_gradient in zip(gradients(ours), gradients(theirs), strict=True):
        assert theirs_gradient.abs().max() > 1e-3
        torch.testing.assert_close(ours_gradient, theirs_gradient, atol=1e-6, rtol=1e-4)


def test_loss_and_gradients_equal_the_definition() -> None:
    loss, (masks, labels) = fixed_loss(), make_objects()
    ours = make_predictions(num_layers=2)
    plain = [(a.detach().double().requires_grad_(), b.detach().double().requires_grad_()) for a, b in ours]

    found = loss(ours, ObjectTargets(masks, labels))["loss"]
    expected = plain_criterion(loss, plain, masks, labels, torch.zeros(2, 24, 20, dtype=torch.bool))
    found.backward()
    expected.backward()

    torch.testing.assert_close(found.double(), expected, atol=0, rtol=1e-6)
    for mine, theirs in zip(gradients(ours), gradients(plain), strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(mine.double(), theirs, atol=1e-7, rtol=1e-4)


def test_classes_as_objects_have_the_loss_of_their_index_map() -> None:
    mask = make_mask()
    ours, theirs = make_predictions(num_layers=2), make_predictions(num_layers=2)

    of_objects, of_map = fixed_loss()(ours, ObjectTargets(*classes_as_objects(mask))), fixed_loss()(theirs, mask)
    of_objects["loss"].backward()
    of_map["loss"].backward()

    for name, value in of_map.items():
        torch.testing.assert_close(of_objects[name], value)
    for mine, other in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(mine, other)


def test_what_is_padded_is_evidence_against_every_object() -> None:
    masks = [torch.zeros(1, 16, 16, dtype=torch.bool)]
    masks[0][0, :, :8] = True
    logits = torch.where(masks[0], 50.0, -50.0)[None]
    class_logits = torch.zeros(1, 1, NUM_CLASSES + 1)
    loss = LossInside(NUM_CLASSES, num_points=64)

    right = loss([(logits, class_logits)], ObjectTargets(masks, [torch.tensor([0])]))
    everywhere = loss([(logits.abs(), class_logits)], ObjectTargets(masks, [torch.tensor([0])]))

    assert float(right["dice_loss"]) < 0.1 < 0.2 < float(everywhere["dice_loss"])


def test_an_image_without_objects_teaches_that_there_is_none() -> None:
    masks, labels = make_objects()
    nothing = [masks[0][:0], labels[0][:0]]
    predictions = make_predictions(num_layers=2)

    alone = fixed_loss()([(a[:1], b[:1]) for a, b in predictions], ObjectTargets(nothing[:1], nothing[1:]))
    both = fixed_loss()(predictions, ObjectTargets([nothing[0], masks[1]], [nothing[1], labels[1]]))
    both["loss"].backward()

    assert alone["mask_loss"] == alone["dice_loss"] == 0
    assert alone["class_loss"] > 0
    for of_masks, of_classes in zip(gradients(predictions)[::2], gradients(predictions)[1::2], strict=True):
        assert of_masks[0].abs().max() == 0 < of_masks[1].abs().max()
        assert (of_classes[0, :, -1] < 0).all()


@pytest.mark.parametrize("label", [-1, NUM_CLASSES])
def test_labels_that_are_no_class_are_refused(label: int) -> None:
    masks, labels = make_objects()
    labels[1][0] = label

    with pytest.raises(UserError, match=rf"labels: .*{label}.* found; with num_classes 6 they must be 0 to 5"):
        fixed_loss()(make_predictions(), ObjectTargets(masks, labels))


def test_masks_of_objects_are_never_copied_at_full_size() -> None:
    masks, labels = make_objects()
    masks = [of_image.repeat_interleave(40, dim=1).repeat_interleave(40, dim=2) for of_image in masks]
    predictions = make_predictions(num_layers=2)

    with LargestTensor(views=False) as largest:
        fixed_loss()(predictions, ObjectTargets(masks, labels))["loss"].backward()

    assert largest.numel < masks[0][0].numel() / 10
