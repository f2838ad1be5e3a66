"""Which figures of prompted segmentation are logged, and what must be said beside them."""

from collections.abc import Mapping, Sequence
from typing import Literal

from eomt.errors import UserError, shortened
from eomt.metrics.constant_answers import RIVALS

# of prompts, in evaluation
Mode = Literal["box", "centre", "points", "none"]

# what a fit logs for each mode
OF_FIT = ("iou", "dice", "pooled_iou", "macro_iou")
# only where absent classes are asked too: elsewhere they cannot fall below the figure of an empty answer
OF_CLASSES = ("kaggle_dice", "kaggle_dice_all_empty")
# overlaps above are no answers to classes, spreads below none to images
LARGEST_OVERLAP, SMALLEST_SPREAD = 0.9, 0.01


def watched_mode(watch: Mode | None, modes: Sequence[Mode], prompt_free: bool) -> Mode:
    """Return the mode whose figure selects the best checkpoint.

    Args:
        watch: As it is configured; None for the only one, or the first.
        modes: Those that are measured.
        prompt_free: Whether the network predicts without prompts, so that no other figure may choose it.

    Raises:
        UserError: If it is not measured, or may not choose.
    """
    watch = watch or ("none" if prompt_free else modes[0])
    if watch not in modes:
        raise UserError(f"watch: {shortened(watch)!r}; must be one of modes: {', '.join(modes)}")
    if prompt_free and watch != "none":
        raise UserError(f"watch: {watch!r}, but a prompt_free network predicts without prompts; --model.watch none")
    return watch


def figures_to_log(figures: Mapping[str, float], is_fit: bool, finds_classes: bool) -> dict[str, float]:
    """Return a choice of the figures of a mode.

    Args:
        figures: Those of `PromptedSegmentationMetric`.
        is_fit: Whether few are wanted; `validate` and `test` log all, which are some fifty for each mode.
        finds_classes: Whether absent classes are asked too.
    """
    shown = [name for name in figures if name not in OF_CLASSES and (not is_fit or name in OF_FIT)]
    return {name: figures[name] for name in (*shown, *(OF_CLASSES if finds_classes else ()))}


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
