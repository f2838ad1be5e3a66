"""What tasks and callbacks know of the data: the contract that data modules keep.

Tasks and callbacks do not import data modules, and data modules do not import tasks: both sides agree on these
protocols. `datamodules.common.data_module.DataModule` keeps `TaskData` for every data module that derives from it;
one that derives from Lightning's own class states the members itself.

Who needs what:

- `callbacks.PredictionPictures`: `num_classes`, `class_names`.
- `callbacks.RunSummary`: `counts`, `is_split_by_seed`, `split_record`.
- `callbacks.AdapterAudit`: `train_dataloader`.
- `callbacks.AnswerResults`: `QuestionData.rows`.
- `callbacks.MorphResults`: `FaceData`.
- `SemanticSegmentation`: `class_names`; `PromptedSegmentation`: `class_names`, `predict_path`; `MorphDetection`:
  `balanced`; `MaskedAutoencoding`: `batch_size`; `VisualQuestionAnswering`: `QuestionData.count_long_answers`.
- The command line (`eomt.app`, `eomt.cli`): `batch_size`, `counts`, `split_record`, `num_classes`, `class_names`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

from lightning.pytorch import Trainer
from torch import Tensor

from eomt.utils.trainer import datamodule_of

Measured = TypeVar("Measured")


class TaskData(Protocol):
    """What any data module says of itself; after `setup`, where it has to read files for it."""

    @property
    def batch_size(self) -> int:
        """Training samples per step and process."""

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Per split the number of "images", and of whatever else the data set counts."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None for data without classes of their own, whose classes are the network's."""

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the classes, by class id; None where `num_classes` is."""

    @property
    def is_split_by_seed(self) -> bool:
        """Whether a seed splits the data, so that `split_record` is worth keeping."""

    @property
    def split_record(self) -> Mapping[str, Sequence[str]]:
        """Names of the samples in each split; empty where the data set's own files say it."""

    @property
    def balanced(self) -> bool:
        """Whether training draws all classes equally often."""

    @property
    def predict_path(self) -> Path | None:
        """New images to predict, which have no labels; None where those of a split are predicted."""

    def train_dataloader(self) -> Any:
        """Return the training batches."""

    # constructor arguments that are filled in where they are null, with what of the network: "img_size" or, for
    # questions, "tokenizer" and "max_tokens"
    from_network: ClassVar[Mapping[str, str]]

    def found_arguments(self) -> Mapping[str, Any]:
        """Return constructor arguments that, where they are null, are found out by reading the training data.

        Filled in, so that a saved run needs no training data to predict.
        """


class AnsweredQuestion(Protocol):
    """A question about an image."""

    @property
    def question(self) -> str:
        """The question."""

    @property
    def answer(self) -> str:
        """The main answer."""

    @property
    def answers(self) -> Sequence[str]:
        """All references, `answer` alone where there is one."""

    @property
    def question_type(self) -> str:
        """What is asked for; "" where it is not known."""


class TrainingAnswers(TaskData, Protocol):
    """What data of questions know of their training split, before any `setup`."""

    @property
    def answers(self) -> list[str]:
        """The vocabulary, by class id."""

    @property
    def question_types(self) -> list[str]:
        """Types of the questions."""


# only methods, for a check of an instance reads every property, and properties read files
@runtime_checkable
class QuestionData(Protocol):
    """What data of questions about images say besides."""

    def rows(self, split: str) -> Sequence[AnsweredQuestion]:
        """Return the questions of "train", "val" or "test"; in training those alone whose answer is known."""

    def count_long_answers(self, most: int) -> None:
        """Count the training rows whose answers have more than `most` tokens, and tell of them."""


@runtime_checkable
class FaceData(Protocol):
    """What data of bona fide faces and morphs say besides."""

    def labels(self, part: str) -> Sequence[int]:
        """Return the labels of "train", "val" or "test", 1 = morph; none where there is no such split."""

    def map_images(self, function: Callable[[Tensor], Measured], part: str, title: str) -> Sequence[Measured]:
        """Return a function of each image of a part, in the order of `labels`.

        Args:
            function: Takes an image at the network's size, uint8 RGB `(3, H, W)`.
            part: "train", "val" or "test".
            title: What a progress bar says.
        """


@runtime_checkable
class _SaysOfItself(Protocol):
    def found_arguments(self) -> Mapping[str, Any]: ...


def data_of(trainer: Trainer) -> TaskData | None:
    """Return the data module that a trainer works on, if it keeps the contract.

    None where the trainer was given loaders, nothing, or a plain LightningDataModule that says nothing of itself.
    """
    found = datamodule_of(trainer)
    return cast(TaskData, found) if isinstance(found, _SaysOfItself) else None
