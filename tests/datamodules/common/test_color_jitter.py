"""Random changes of color of images with any number of channels."""

import torch
from torchvision.transforms import v2

from datamodules.common.color_jitter import jittered


def image(channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(60, 160, (channels, 12, 16), dtype=torch.uint8, generator=generator)


def test_three_channels_change_as_in_torchvision() -> None:
    jitter = v2.ColorJitter(0.3, 0.4, 0.5)
    torch.manual_seed(3)
    expected = jitter(image(3))
    torch.manual_seed(3)
    assert torch.equal(jittered(jitter, image(3)), expected)


def test_brightness_is_one_for_all_channels_and_contrast_around_the_mean_of_each() -> None:
    for seed in range(8):
        torch.manual_seed(seed)
        found = jittered(v2.ColorJitter(brightness=0.3), image(5)).float()
        factors = found.flatten(1).mean(1) / image(5).float().flatten(1).mean(1)
        assert factors.min() >= 0.69
        assert factors.max() <= 1.31
        torch.testing.assert_close(factors, factors[:1].expand(5), rtol=0.02, atol=0)
        torch.manual_seed(seed)
        found = jittered(v2.ColorJitter(contrast=0.3), image(5)).float()
        torch.testing.assert_close(found.mean((1, 2)), image(5).float().mean((1, 2)), rtol=0, atol=1.0)
        spreads = found.flatten(1).std(1) / image(5).float().flatten(1).std(1)
        torch.testing.assert_close(spreads, spreads[:1].expand(5), rtol=0.05, atol=0)
        assert abs(float(spreads[0]) - 1) < 0.31


def test_changes_differ_by_seed_and_saturation_changes_nothing() -> None:
    jitter = v2.ColorJitter(0.3, 0.3, 0.3)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(jittered(jitter, image(4)))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(jittered(v2.ColorJitter(saturation=0.5), image(4)), image(4))
