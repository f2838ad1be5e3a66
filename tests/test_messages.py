"""Messages say what was found in a line that can be read, however much was given."""

from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules import ImageMaskFolder, MorphFaces, VQACsv
from datamodules.common.checks import check_class_names
from eomt.errors import UserError
from eomt.lora.layers import LoRAAttention
from eomt.tasks import MorphDetection, PromptedSegmentation, SemanticSegmentation
from tests.tiny import make_eomt
from tests.tiny_morph import make_detector
from tests.tiny_sam2 import make_sam2

LONG = "x" * 3000
MANY = 3000


def table(folder: Path, row: str) -> Path:
    (folder / "faces.csv").write_text(f"path,label,attack,split\n{row}\n")
    (folder / "a.png").write_bytes(b"")
    return folder / "faces.csv"


MISTAKES: dict[str, Callable[[Path], object]] = {
    "class_map": lambda folder: ImageMaskFolder(folder, class_map={label: 2 * label for label in range(MANY)}),
    "class_names": lambda folder: check_class_names([LONG, LONG]),
    "anomaly_scores": lambda folder: SemanticSegmentation(make_eomt(), anomaly_scores=["rba"] * MANY),
    "class_weights": lambda folder: SemanticSegmentation(make_eomt(), class_weights=[1.0] * MANY),
    "mask_annealing": lambda folder: SemanticSegmentation(make_eomt(), mask_annealing=[(0.1, 0.2)] * MANY),
    "test_scales": lambda folder: SemanticSegmentation(make_eomt(), test_scales=[9.0] * MANY),
    "modes": lambda folder: PromptedSegmentation(make_sam2(), modes=["box"] * MANY),
    "slices": lambda folder: LoRAAttention(6, 6, slices=("nothing",) * MANY),
    "label": lambda folder: MorphFaces(table(folder, f"a.png,{LONG},,")).faces("train"),
    "split": lambda folder: MorphFaces(table(folder, f"a.png,0,,{LONG}")).faces("train"),
    "attack": lambda folder: MorphFaces(table(folder, f"a.png,0,{LONG},")).faces("train"),
    "identity_pattern": lambda folder: MorphFaces(folder, identity_pattern=f"({LONG}"),
    "threshold_at": lambda folder: MorphDetection(make_detector(), threshold_at=LONG),
    "question_types": lambda folder: VQACsv(folder, question_types=["a"] * MANY),
    "type_weights": lambda folder: VQACsv(folder, type_weights={LONG: 1.0}),
}


@pytest.mark.parametrize("field", MISTAKES)
def test_a_message_is_short_however_much_was_given(tmp_path: Path, field: str) -> None:
    """15.25: whole lists and whole values were printed."""
    with pytest.raises(UserError) as caught:
        MISTAKES[field](tmp_path)
    message = str(caught.value).replace(str(tmp_path), "")
    assert field in message
    assert len(message) <= 300
