from pathlib import Path

import numpy as np
from PIL import Image

from callbacks.pictures.grid import SMALLEST_CELL_WIDTH
from eomt.app.data_look import look_lines
from eomt.pictures.colors import palette
from tests.datamodules.objects.object_files import NAMES, KnownObjects


def test_objects_are_drawn_in_the_colors_of_their_classes_with_a_legend(tmp_path: Path) -> None:
    data = KnownObjects(tmp_path)
    data.setup("fit")
    lines = list(look_lines(data, tmp_path / "looks"))
    assert any("train: 4 samples are drawn in" in line for line in lines)
    with Image.open(tmp_path / "looks" / "train.png") as picture:
        pixels = np.array(picture)
    # the legend is below the images: a swatch for each class, and above it outlines have the full color, too
    for color in palette(len(NAMES)):
        where = np.flatnonzero((pixels == color).all(-1).any(1))
        assert len(where) > 40
    # the image itself has no color
    left = pixels[:, : pixels.shape[1] // 2 - SMALLEST_CELL_WIDTH // 8]
    assert not (left[200:400] == palette(1)[0]).all(-1).any()
