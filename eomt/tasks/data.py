"""The contract between data modules and the tasks and callbacks that use them.

Tasks and callbacks do not import data modules, and data modules do not import tasks: both sides agree on these
protocols. A data module that derives from `datamodules.common.data_module.DataModule` keeps `TaskData`; the command
line takes no other.

Who uses which members:

- `callbacks.PredictionPictures`: `num_classes`, `class_names`, `MaskFiles`.
- `callbacks.RunSummary`: `counts`, `is_split_by_seed`, `split_record`, `reading_notes`.
- `callbacks.AdapterAudit`: `train_dataloader`.
- `callbacks.PredictionFiles`: `left_to_predict`.
- `callbacks.AnswerResults`: `QuestionData.rows`.
- `callbacks.MorphResults`: `FaceData`; `callbacks.ClassificationResults`: `LabelData`;
  `callbacks.SegmentationResults`: `MaskData`.
- `InstanceSegmentation`: `class_names`; `PanopticSegmentation`: `class_names`, and `stuff_classes` where there are any.
- `SemanticSegmentation`: `class_names`, `AnomalyData`; `PromptedSegmentation`: `class_names`, `PromptData`;
  `MorphDetection`: `balanced`; `ImageClassification`: `class_names`, `balanced`, `counts`, `LabelData`;
  `MaskedAutoencoding`: `batch_size`; `VisualQuestionAnswering`: `QuestionData.count_long_answers`.
- The command line (`eomt.app`, `eomt.cli`): `is_prepared`, `check_prepared`, `batch_size`, `counts`, `split_record`,
  `num_classes`, `class_names`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast, runtime_checkable

from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from eomt.utils.trainer import datamodule_of

Measured = TypeVar("Measured")

# what batches of data with objects hold: a map of classes, a mask for each object, for each object and kind of stuff,
# or for each object that a prompt points at
DataTarget = Literal["semantic", "instance", "panoptic", "prompted"]


class TaskData(Protocol):
    """Facts about any data module; those that need its files are known after `setup`."""

    @property
    def batch_size(self) -> int:
        """Number of training samples per step and process."""

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Counts by split: the number of "images", and of anything else that the data set counts."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None for data that has no classes of its own and uses those of the network."""

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the classes in the order of their ids; None where `num_classes` is None."""

    @property
    def is_prepared(self) -> bool:
        """Whether `prepare_data` has nothing left to make."""

    def check_prepared(self) -> None:
        """Raise a UserError where what is there is not what `prepare_data` makes."""

    @property
    def is_split_by_seed(self) -> bool:
        """Whether a seed determines the split, so that a run keeps `split_record`."""

    @property
    def split_record(self) -> Mapping[str, Sequence[str]]:
        """Names of the samples in each split; empty where the data set's files determine the split."""

    @property
    def balanced(self) -> bool:
        """Whether training draws all classes equally often."""

    @property
    def reading_notes(self) -> Sequence[str]:
        """What must be known of how images are read; the log and `inspect` say it."""

    @property
    def repeats_images(self) -> bool:
        """Whether the same pixels can come again in a later epoch of training."""

    @property
    def predict_path(self) -> Path | list[Path] | None:
        """Files, folders and patterns of new images without labels to predict; None where a split is predicted."""

    # takes the names of images to predict, each with a text that changes where its file does, and returns those that
    # are not predicted yet; set by who keeps predictions
    left_to_predict: Callable[[Mapping[str, str]], list[str]] | None

    def train_dataloader(self) -> Any:
        """Return the training batches."""

    # constructor arguments that say what batches hold, one of `DataTarget`; where they are null the task fills them in
    from_task: ClassVar[Sequence[str]]

    # constructor argument -> the fact about the network that fills it in where it is null: "img_size" or, for
    # questions, "tokenizer" and "max_tokens"
    from_network: ClassVar[Mapping[str, str]]

    def found_arguments(self) -> Mapping[str, Any]:
        """Return the constructor arguments whose value, where they are null, follows from the training data.

        They are saved with a run, so that it can predict without the training data.
        """


class AnsweredQuestion(Protocol):
    """A question about an image."""

    @property
    def question(self) -> str:
        """The question."""

    @property
    def answer(self) -> str:
        """The main reference answer."""

    @property
    def answers(self) -> Sequence[str]:
        """All reference answers; only `answer` where there is one."""

    @property
    def question_type(self) -> str:
        """Type of the question; "" where it is not known."""


class TrainingAnswers(TaskData, Protocol):
    """Facts about the training split of questions, known before any `setup`."""

    @property
    def answers(self) -> list[str]:
        """Vocabulary of answers, in the order of their ids."""

    @property
    def question_types(self) -> list[str]:
        """Types of the questions."""


# only methods: isinstance() reads every property of a protocol, and properties would read files
@runtime_checkable
class QuestionData(Protocol):
    """Further members of data with questions about images."""

    def rows(self, split: str) -> Sequence[AnsweredQuestion]:
        """Return the questions of "train", "val" or "test"; of "train" only those with an answer in the vocabulary."""

    def count_long_answers(self, most: int) -> None:
        """Count the training rows whose answers have more than `most` tokens, and log the number."""


class LabeledFace(Protocol):
    """A bona fide face or a morph."""

    @property
    def label(self) -> int:
        """0, or 1 for a morph."""

    @property
    def attack(self) -> str:
        """How a morph was made; "" for a bona fide face."""

    @property
    def dataset(self) -> str:
        """Name of the data set."""


@runtime_checkable
class FaceData(Protocol):
    """Further members of data with bona fide faces and morphs."""

    def tested_parts(self) -> Sequence[str]:
        """Return the names of what is tested: "test", unless there is no such split, and further test sets."""

    def faces(self, part: str) -> Sequence[LabeledFace]:
        """Return the faces of "train", "val", "test" or a further test set; empty where there is no such split."""

    def map_images(self, function: Callable[[Tensor], Measured], part: str, title: str) -> Sequence[Measured]:
        """Return the results of a function for the images of a part, in the order of `faces`.

        Args:
            function: Takes an image at the network's size, uint8 RGB `(3, H, W)`.
            part: "train", "val", "test" or a further test set.
            title: Title of the progress bar.
        """


@runtime_checkable
class LabelData(Protocol):
    """Further members of data whose images have a class, or several labels."""

    def is_multi_label(self) -> bool:
        """Return whether an image may have any number of the classes."""

    def label_counts(self) -> Sequence[int]:
        """Return how many training images show each class."""

    def plain_images(self, split: str, most: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images of "train", "val" or "test" without random changes, `(B, 3, H, W)`, and their labels.

        Args:
            split: Which.
            most: Of each class, evenly spread; None for all.
        """


@runtime_checkable
class PromptData(Protocol):
    """Further members of data whose images are prompted."""

    def has_prompts(self) -> bool:
        """Return whether `predict` is given prompts."""


@runtime_checkable
class MaskData(Protocol):
    """Further members of data with masks."""

    def masked_dataset(self, split: str) -> Any:
        """Return the samples of "train", "val" or "test" without random changes, by their number, with a length.

        For maps of classes they hold `image`, uint8 `(C, H, W)`, and `mask`, int64 `(H, W)`, 255 = ignored.
        """


@runtime_checkable
class MaskFiles(Protocol):
    """Further members of data with masks in files."""

    def file_labels(self) -> Sequence[int]:
        """Return the label of each class in these files."""


@runtime_checkable
class AnomalyData(Protocol):
    """Further members of data with anomaly sets."""

    def test_sets(self) -> Sequence[str]:
        """Return the names of the sets that `test` measures."""


@runtime_checkable
class _HasFoundArguments(Protocol):
    def found_arguments(self) -> Mapping[str, Any]: ...


def class_names_of(trainer: Trainer) -> list[str]:
    """Return the names of the classes: those of the data or, where it has none of its own, of the network."""
    data: TaskData | None = data_of(trainer)
    network: Any = getattr(trainer.lightning_module, "network", None)
    names = (data and data.class_names) or getattr(network, "class_names", None)
    count = (data and data.num_classes) or getattr(network, "num_classes", None) or 0
    return list(names or [f"class {index}" for index in range(count)])


def data_of(trainer: Trainer) -> TaskData | None:
    """Return the data module of a trainer if it keeps the contract, else None.

    The trainer may also have loaders, no data, or a plain LightningDataModule.
    """
    found = datamodule_of(trainer)
    is_plain = isinstance(found, LightningDataModule) and not isinstance(found, _HasFoundArguments)
    return None if is_plain else cast(TaskData | None, found)
