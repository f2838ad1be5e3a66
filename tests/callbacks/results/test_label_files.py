from pathlib import Path

import numpy as np
import pytest

from callbacks import LabelFiles
from eomt.errors import UserError
from eomt.results.coco import annotation


def test_predictions_become_files_of_both_formats(tmp_path: Path) -> None:
    mask = np.zeros((8, 12), dtype=bool)
    mask[2:6, 3:9] = True
    line = {"name": "b/a.png", "size": [8, 12], "annotations": [annotation(mask, "pit", 0.5)], "categories": ["pit"]}
    callback = LabelFiles(["yolo", "labelme"])
    callback.folder = tmp_path
    callback.write_joined(lambda: iter([line]))
    folder = tmp_path / "predictions"
    assert (folder / "yolo" / "labels" / "b" / "a.txt").read_text() == "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"
    assert "0: pit" in (folder / "yolo" / "data.yaml").read_text()
    assert '"label": "pit"' in (folder / "labelme" / "b" / "a.json").read_text()


def test_no_format_is_refused() -> None:
    with pytest.raises(UserError, match="formats: an empty list"):
        LabelFiles([])
