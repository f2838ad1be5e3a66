"""What must be said beside the figures of prompted segmentation."""

from collections.abc import Mapping

from eomt.metrics.constant_answers import RIVALS

# overlaps above are no answers to classes, spreads below none to images
LARGEST_OVERLAP, SMALLEST_SPREAD = 0.9, 0.01


def notes_of_prompts(figures: Mapping[str, float], stage: str, mode: str) -> list[str]:
    """Return where prompts came from, and what they give alone.

    Args:
        figures: Those of the mode, by their names without stage and mode.
        stage: "val" or "test".
        mode: One that is prompted.
    """
    found = [f"Prompts and classes of {stage}_iou come from the true masks (mode {mode})."]
    if (name := f"{RIVALS.get(mode)}_iou") in figures:
        rival = "the box, filled" if mode == "box" else "the best disc of one size around each click"
        found.append(f"The prompt alone has {stage}_{mode}_{name} {figures[name]:.4f}: {rival}.")
    return found


def notes_of_classes(figures: Mapping[str, float], stage: str) -> list[str]:
    """Return what an answer without masks has, and whether classes and images get answers of their own.

    Args:
        figures: Those of the mode without prompts, by their names without stage and mode.
        stage: "val" or "test".
    """
    if "kaggle_dice" not in figures:
        return []
    found = [f"An answer without any mask has {stage}_none_kaggle_dice {figures['kaggle_dice_all_empty']:.4f}."]
    if figures["class_overlap"] > LARGEST_OVERLAP:
        found.append(
            f"Classes get one answer: masks of two classes overlap by {figures['class_overlap']:.3f} "
            f"({stage}_none_class_overlap). Train longer, or raise --model.head_lr."
        )
    if figures["presence_spread"] < SMALLEST_SPREAD:
        found.append(
            f"Images get one answer: the probability of a class varies by {figures['presence_spread']:.4f} "
            f"({stage}_none_presence_spread). Train longer, or raise --model.object_weight."
        )
    return found
