"""What a killed training left is removed; what a user put there is not."""

from pathlib import Path

import pytest

from eomt.app.leftovers import is_abandoned, remove_leftovers
from eomt.utils.files import REPLACED, WRITING

BEST = "best_merged_step4_iou0.5"
# what a training writes before its first checkpoint
EARLY = (
    ".lock",
    "config.yaml",
    "training.log",
    "metrics.csv",
    "pictures/train_batch.png",
    "pictures/val_step000000.png",
    "best_lora_step0_iou0.1/adapter_config.json",
    "best_lora_step0_iou0.1/encoder.backbone/adapter_model.safetensors",
    "best_merged_step0_iou0.1/model.safetensors",
    "best_merged_step0_iou0.1/tokenizer/vocab.txt",
    f".best_lora_step0_iou0.1{WRITING}abcd1234.ckpt",
)


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_a_kill_left_is_removed_or_gets_its_name_back(tmp_path: Path) -> None:
    for name in (f".{BEST}{REPLACED}", f".encoder{WRITING}abcd1234", f".{BEST}.abcd_234"):
        (tmp_path / name).mkdir()
    write(tmp_path, f".metrics{WRITING}abcd1234.csv", f".best_lora_step4_iou0.5{WRITING}abcd1234.ckpt")
    write(tmp_path, f"predictions_1/masks/.a{WRITING}abcd1234.png")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [BEST, "predictions_1", "predictions_1/masks"]


def test_what_this_package_does_not_write_is_nobodys_leftover(tmp_path: Path) -> None:
    write(
        tmp_path,
        ".best_notes.txt",
        ".lock",
        f".thesis{WRITING}20240101.md",
        ".draft.replaced",
        "draft",
        "notes/.draft.replaced",
        "notes/draft",
        f"notes/.metrics{WRITING}abcd1234.csv",
        "pictures/.mine.replaced",
        "pictures/mine",
    )
    before = names(tmp_path)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == before


def test_a_folder_with_what_precedes_the_first_checkpoint_is_abandoned(tmp_path: Path) -> None:
    write(tmp_path, *EARLY)
    assert is_abandoned(tmp_path)


@pytest.mark.parametrize(
    "mine",
    [
        "best_lora_step0_iou0.1.ckpt",
        "pictures/my_figures.png",
        "best_lora_step0_iou0.1/README.md",
        "best_merged_step0_iou0.1/notes/README.md",
        f".thesis{WRITING}2024.md",
        "metrics.csv/x",
    ],
)
def test_a_folder_with_anything_else_is_not_abandoned(tmp_path: Path, mine: str) -> None:
    write(tmp_path, *(name for name in EARLY if name != "metrics.csv"), mine)
    assert not is_abandoned(tmp_path)
