"""The contract that every data module keeps: what data tell the rest of the application."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning import LightningDataModule

from datamodules.common.grouped_splits import Group, folds_of
from eomt.errors import UserError
from eomt.utils.files import is_empty
from eomt.utils.paths import constructor_parameters

log = logging.getLogger("eomt")

# what a data module may take from the network for which it makes images and texts ready
NetworkFact = Literal["img_size", "tokenizer", "max_tokens"]


class DataModule(LightningDataModule):
    """Files -> splits -> batches: data own classes, names and splits, and know no network.

    A data module of your own derives from it, or from `ImageDataModule`, which makes the loaders too, and says what
    differs. What is here by default holds for data without classes whose splits the files give.

    Arguments of the type `Path`, also in a list, in a dict or beside None, hold paths: a run saves them absolute, and
    constructors expand them with `eomt.utils.paths.expand`.

    Attributes:
        batch_size: Training samples per step and process.
        counts: After `setup`, per split the number of "images", and of whatever else a data set counts.
        predict_path: New images, which have no annotations, to predict; None where the data's own are predicted.
        left_to_predict: Takes the names of the images to predict, each with a text that changes where its file does,
            and returns those that are not predicted yet; set by who keeps predictions.
        balanced: Whether training draws every class equally often.
    """

    # constructor arguments that the command line fills in where they are null, with what of the network: "img_size",
    # (height, width) of its images; "tokenizer", folder or repository; "max_tokens", that its text model takes
    from_network: ClassVar[Mapping[str, NetworkFact]] = {}
    # those that say what batches hold, where the data can make them for several tasks: null takes what the task says
    from_task: ClassVar[Sequence[str]] = ()

    def __init__(self, batch_size: int, predict_path: Path | list[Path] | None = None) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.predict_path = predict_path
        self.left_to_predict: Callable[[Mapping[str, str]], list[str]] | None = None
        self.counts: dict[str, dict[str, int]] = {}
        self.balanced = False
        self._noted = False

    @property
    def is_prepared(self) -> bool:
        """Whether `prepare_data` has nothing left to make: where there is a `path`, something is there."""
        path = getattr(self, "path", None)
        return path is None or (Path(path).exists() and not (Path(path).is_dir() and is_empty(Path(path))))

    def check_prepared(self) -> None:
        """Check, without making anything, that what is there is what `prepare_data` makes.

        Raises:
            UserError: It is something else.
        """

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, by class id; None of data without classes of their own, as those to test on alone.

        Files may be read to find them; no `setup` is needed.
        """
        return None

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None of data without classes of their own."""
        names = self.class_names
        return None if names is None else len(names)

    @property
    def is_split_by_seed(self) -> bool:
        """True where a seed makes the split, and not the files; a run then keeps `split_record`."""
        return False

    @property
    def split_record(self) -> dict[str, list[str]]:
        """Names of the images in each split, as the argument `splits` takes them from a JSON file; may be empty."""
        return {}

    def split_groups(self) -> list[Group]:
        """Return the images of `split_record`'s "train" and "val" in groups that belong together, with their classes.

        By default each is on its own.
        """
        record = self.split_record
        return [Group((name,), frozenset()) for split in ("train", "val") for name in record.get(split, ())]

    def fold_records(self, num_folds: int) -> list[dict[str, list[str]]]:
        """Return splits for cross-validation, as `splits` takes them: each image of train and val is in one "val".

        "test" stays as it is. There are none where files or folders give the split.

        Raises:
            UserError: There are fewer images than folds.
        """
        if not self.is_split_by_seed or "splits" not in constructor_parameters(type(self)):
            return []
        groups = self.split_groups()
        if len(groups) < 2 * num_folds:
            raise UserError(
                f"folds: {num_folds}, of {len(groups)} different images to train and validate on; two for each fold "
                "are needed at least"
            )
        folds = folds_of(groups, num_folds, getattr(self, "split_seed", 0))
        test = list(self.split_record.get("test", ()))
        return [
            {
                "train": sorted(name for other in folds if other is not fold for name in other),
                "val": fold,
                "test": test,
            }
            for fold in folds
        ]

    @property
    def reading_notes(self) -> list[str]:
        """What must be known of how images are read, beside their counts."""
        return []

    @property
    def repeats_images(self) -> bool:
        """Whether the same pixels can come again in a later epoch of training; not if each time draws new ones."""
        return True

    def note_unused(self, names: Sequence[str], reason: str) -> None:
        """Say once which constructor arguments have no effect, of those that do not have their default.

        Args:
            names: Of arguments that are attributes too.
            reason: Why they have none.
        """
        defaults = constructor_parameters(type(self))
        values = {name: getattr(self, name) for name in names if name in defaults}
        given = [f"{name} {value}" for name, value in values.items() if value != defaults[name].default]
        # a command makes another instance before, to look at the classes
        if given and self.trainer is not None and not self._noted:
            self._noted = True
            log.info("data: %s, so there is no use for %s", reason, ", ".join(given))

    def found_arguments(self) -> dict[str, Any]:
        """Return arguments that, where they are null, are found out by reading the training data.

        The command line fills them in, so that a saved run needs no training data to predict. Those that the class's
        constructor does not take are passed over.
        """
        return {}
