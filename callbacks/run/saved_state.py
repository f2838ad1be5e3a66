"""What callbacks find of themselves in a checkpoint, which anybody may have made: checked before it is taken back."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypeVar

from lightning.pytorch import Trainer
from pydantic import FiniteFloat, InstanceOf, TypeAdapter
from torch import Tensor
from typing_extensions import TypedDict

from eomt.errors import UserError
from eomt.utils.reading import Count, checked

Found = TypeVar("Found")
REMEDY = "give another checkpoint"


class CheckpointState(TypedDict):
    """State of LoRACheckpoint."""

    best_score: float | None
    best_step: Count | None
    best_name: str
    baseline: float | None
    random: list[dict[str, Any]]
    training_metrics: NotRequired[dict[str, dict[str, Any]]]
    gradients: NotRequired[dict[str, InstanceOf[Tensor]]]
    validation_due: NotRequired[bool]


class MergeState(TypedDict):
    """State of MergeOnSave."""

    max_abs_diff: float | None
    relative_diff: float | None
    # not in runs before there were quantized bases
    quantized_diff: NotRequired[float | None]
    name: str


class SummaryState(TypedDict):
    """State of RunSummary."""

    seconds: FiniteFloat


class StoppingState(TypedDict):
    """State of Lightning's EarlyStopping, but for its patience, which may be configured anew."""

    wait_count: Count
    stopped_epoch: Count
    best_score: InstanceOf[Tensor]
    stopping_reason: NotRequired[int]
    stopping_reason_message: NotRequired[str | None]


class ComparedFigures(TypedDict):
    """Accuracies of a Comparison."""

    accuracy: float
    blank_accuracy: float
    question_only_accuracy: NotRequired[float]
    majority_accuracy: NotRequired[float]


class ComparisonState(TypedDict):
    """A Comparison."""

    step: Count
    figures: ComparedFigures


class AnswerState(TypedDict):
    """State of AnswerResults."""

    best: ComparisonState | None


class RivalState(TypedDict):
    """State of ClassificationResults."""

    rivals: dict[str, float]


class PictureState(TypedDict):
    """State of PredictionPictures."""

    step_0: dict[str, InstanceOf[Tensor]]


CHECKPOINT_STATE: TypeAdapter[Any] = TypeAdapter(CheckpointState)
MERGE_STATE: TypeAdapter[Any] = TypeAdapter(MergeState)
SUMMARY_STATE: TypeAdapter[Any] = TypeAdapter(SummaryState)
STOPPING_STATE: TypeAdapter[Any] = TypeAdapter(StoppingState)
RIVAL_STATE: TypeAdapter[Any] = TypeAdapter(RivalState)
ANSWER_STATE: TypeAdapter[Any] = TypeAdapter(AnswerState)
PICTURE_STATE: TypeAdapter[Any] = TypeAdapter(PictureState)


def checked_state(state: dict[str, Any], schema: TypeAdapter[Found], who: object) -> Found:
    """Return the state of a callback that a checkpoint holds.

    Args:
        state: As it was read.
        schema: What it must hold; no other fields are returned.
        who: The callback.

    Raises:
        UserError: If it holds anything else.
    """
    return checked(state, schema, f"ckpt_path: its state of {type(who).__name__}", REMEDY)


def same_kind(found: Any, own: Any) -> bool:
    """Return whether a value of a checkpoint can take the place of a run's own: a number of a number, and so on.

    Fields of a mapping may be missing or more than the own ones, as those of another version.
    """
    if isinstance(own, Mapping):
        return isinstance(found, Mapping) and all(same_kind(found[key], own[key]) for key in own if key in found)
    if isinstance(own, list | tuple):
        is_row = isinstance(found, list | tuple) and len(found) == len(own)
        return is_row and all(map(same_kind, found, own))
    if isinstance(own, Tensor):
        return isinstance(found, Tensor) and (found.shape, found.dtype) == (own.shape, own.dtype)
    if own is None or isinstance(own, bool):
        return found is None or isinstance(found, bool | int | float)
    if isinstance(own, int | float):
        return isinstance(found, int | float) and not isinstance(found, bool)
    return isinstance(found, type(own))


def check_loops(trainer: Trainer, found: Any) -> None:
    """Check that the state of the trainer's loops in a checkpoint is one that they can go on from.

    Raises:
        UserError: If it is not.
    """
    own = trainer._checkpoint_connector._get_loops_state_dict()
    if not same_kind(found, own):
        raise UserError(f"ckpt_path: the state of its loops is none of a training; {REMEDY}")


def check_optimizers(trainer: Trainer) -> None:
    """Check that the states of optimizers fit their parameters: else a step fails, far from its cause.

    Raises:
        UserError: If one does not.
    """
    for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
        rates = getattr(scheduler, "base_lrs", [])
        if not isinstance(scheduler.last_epoch, int) or not all(same_kind(rate, 0.0) for rate in rates):
            raise UserError(f"ckpt_path: its learning-rate schedule has no step, or no rates; {REMEDY}")
    for optimizer in trainer.optimizers:
        fits = all(same_kind(group, optimizer.defaults) for group in optimizer.param_groups)
        if not fits or not all(_fits(state, parameter) for parameter, state in optimizer.state.items()):
            raise UserError(f"ckpt_path: its optimizer's state does not fit the weights; {REMEDY}")


def _fits(state: Any, parameter: Tensor) -> bool:
    """Return whether a state of a parameter holds a number of steps, and moments like the parameter."""
    if not isinstance(state, dict):
        return False
    step = state.get("step", 0)
    moments = [value for name, value in state.items() if name != "step" and value is not None]
    return same_kind(step.item() if isinstance(step, Tensor) and step.numel() == 1 else step, 0) and all(
        isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point() for value in moments
    )
