import torch

from eomt.tasks.index_maps import index_map


def test_smaller_masks_lie_on_top_and_of_equals_the_first() -> None:
    masks = torch.zeros(4, 6, 6, dtype=torch.bool)
    masks[0, :, :3] = masks[1, :, :3] = masks[2, :2] = masks[3] = True
    found = index_map(masks, torch.tensor([4, 5, 6, 7]))
    assert (found[2:, :3] == 5).all()
    assert (found[:2] == 7).all()
    assert (found[2:, 3:] == 8).all()
