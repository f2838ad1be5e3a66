from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.pictures.grid import picture_grid
from callbacks.pictures.output import save_picture
from eomt.pictures.colors import PAPER, palette
from eomt.pictures.masks import index_image, overlay


@pytest.mark.parametrize("num_classes", [1, 2, 7, 8, 19, 200])
def test_every_class_has_a_color_of_its_own(num_classes: int) -> None:
    colors = palette(num_classes)
    assert len(set(colors)) == len(colors) == num_classes
    assert all(0 <= channel <= 255 for color in colors for channel in color)


def test_colors_are_well_separated_for_normal_and_color_blind_eyes() -> None:
    colors = np.array(palette(19)) / 255
    # Machado, Oliveira and Fernandes 2009, deuteranopia: not the simulation that the palette is made with
    machado = np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]])
    seen = (colors**2.2 @ machado.T).clip(0, 1) ** (1 / 2.2)
    for space, least in ((colors, 45 / 255), (seen, 30 / 255)):
        distance = np.linalg.norm(space[:, None] - space[None], axis=-1)
        assert distance[~np.eye(len(colors), dtype=bool)].min() > least


def test_a_class_keeps_its_color_when_classes_are_added() -> None:
    assert palette(30)[:12] == palette(12)


def test_overlay_blends_classes_and_leaves_ignored_and_unknown_pixels_untouched() -> None:
    image = torch.arange(3 * 16 * 16).reshape(3, 16, 16).remainder(256).to(torch.uint8)
    mask = torch.randint(0, 3, (16, 16))
    mask[:4], mask[4:6], mask[6:8] = 255, -1, 7
    colors = palette(3)
    painted = overlay(image, mask, colors, alpha=0.9)
    assert torch.equal(painted[:, :8], image[:, :8])
    expected = 0.1 * image[:, 8:] + 0.9 * torch.tensor(colors)[mask[8:]].permute(2, 0, 1)
    assert (painted[:, 8:] - expected).abs().max() <= 1
    assert painted.dtype == torch.uint8


def test_overlay_of_a_mask_without_classes_is_a_copy_of_the_image() -> None:
    image = torch.full((3, 4, 4), 9, dtype=torch.uint8)
    painted = overlay(image, torch.full((4, 4), 255), [(1, 2, 3)] * 256)
    assert torch.equal(painted, image)
    painted += 1
    assert (image == 9).all()


def test_index_image_keeps_ids_beyond_the_palette(tmp_path: Path) -> None:
    mask = torch.arange(256).reshape(16, 16)
    save_picture(index_image(mask, palette(3)), tmp_path / "ids.png")
    read = Image.open(tmp_path / "ids.png")
    assert read.mode == "P"
    assert np.array_equal(np.asarray(read), mask.numpy())
    assert read.convert("RGB").getpixel((2, 0)) == palette(3)[2]


def test_small_images_are_enlarged_in_whole_pixels_and_large_ones_shrunk() -> None:
    small = torch.randint(0, 255, (3, 20, 100), dtype=torch.uint8)
    picture = picture_grid([[small]], ["image"], ["a.png"], [])
    pixels = np.asarray(picture)
    enlarged = np.kron(small.permute(1, 2, 0).numpy(), np.ones((3, 3, 1), dtype=np.uint8))
    windows = np.lib.stride_tricks.sliding_window_view(pixels, enlarged.shape)[:, 12, 0]
    assert any(np.array_equal(window, enlarged) for window in windows)

    large = picture_grid([[torch.zeros(3, 900, 1800, dtype=torch.uint8)]], ["image"], ["a.png"], [])
    assert (np.asarray(large) == 0).all(-1).any(0).sum() == 640


def test_titles_captions_and_legend_are_drawn_and_long_ones_stay_inside() -> None:
    image = torch.full((3, 256, 256), 200, dtype=torch.uint8)
    bare = np.asarray(picture_grid([[image]], [""], [""], []))
    for titles, names in ((["W" * 99], [""]), ([""], ["folder/" * 50 + "a.png"])):
        drawn = np.asarray(picture_grid([[image]], titles, names, []))
        assert drawn.shape == bare.shape
        assert (drawn != bare).any()
        assert (drawn[:, :4] == PAPER).all()
        assert (drawn[:, -4:] == PAPER).all()

    colors = palette(40)
    with_legend = picture_grid([[image]], [""], [""], [(f"class {index}", color) for index, color in enumerate(colors)])
    assert with_legend.width == bare.shape[1]
    shown = {color for _, color in with_legend.getcolors(1 << 20)}
    assert set(colors) <= shown


def test_a_picture_that_cannot_be_written_leaves_the_old_one_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.png"
    save_picture(Image.new("RGB", (2, 2)), path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="cannot write mode"):
        save_picture(Image.new("CMYK", (3, 3)), path)
    assert path.read_bytes() == before
    (path.parent / "b.png").mkdir()
    with pytest.raises(OSError, match="directory"):
        save_picture(Image.new("RGB", (2, 2)), path.parent / "b.png")
    assert {entry.name for entry in path.parent.iterdir()} == {"a.png", "b.png"}


def test_ids_that_a_palette_cannot_hold_are_written_in_16_bits() -> None:
    mask = torch.tensor([[0, 255], [256, 300]])
    assert np.array(index_image(mask, [])).tolist() == mask.tolist()
