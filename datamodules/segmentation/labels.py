"""From the raw labels in mask files to class ids."""

import numpy as np

from datamodules.common.checks import check_class_names
from datamodules.common.label_arrays import look_up
from datamodules.common.mask_labels import Color
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError, listed
from eomt.utils.labels import IGNORE_INDEX

MAX_CLASSES = 255
MAX_LABEL = 0xFFFF
# stands for labels that are unknown in the table of 8-bit masks; where there are 255 classes it is one of them too
DOUBTFUL = 254


def declared_num_classes(
    class_names: list[str] | None,
    class_map: dict[int, int] | None,
    ignore_labels: list[int],
    class_colors: list[Color] | None,
) -> int | None:
    """Return the number of classes that the fields state, None if they leave it to the masks.

    Raises:
        UserError: A field has values that cannot be, or two fields contradict each other.
    """
    _check_values(class_names, class_map, ignore_labels, class_colors)
    stated: dict[str, int] = {}
    if class_names is not None:
        stated["class_names"] = len(class_names)
    if class_map is not None:
        stated["class_map"] = _num_mapped_classes(class_map)
    elif class_colors is not None:
        stated["class_colors"] = len(class_colors) - sum(label < len(class_colors) for label in set(ignore_labels))
    if len(set(stated.values())) > 1:
        numbers = ", ".join(f"{field} has {number} classes" for field, number in stated.items())
        raise UserError(f"{numbers}; give the same number of classes in each")
    if not stated:
        return None
    num_classes = next(iter(stated.values()))
    if not 2 <= num_classes <= MAX_CLASSES:
        raise UserError(f"{next(iter(stated))}: {num_classes} classes; from 2 to {MAX_CLASSES} are possible")
    used = class_map if class_map is not None else range(num_classes)
    doubled = sorted(set(used) & set(ignore_labels))
    if doubled:
        raise UserError(
            f"ignore_labels: label {doubled[0]} is also a class; take it out of ignore_labels, "
            "or map the labels that are classes with class_map"
        )
    return num_classes


def _check_values(
    class_names: list[str] | None,
    class_map: dict[int, int] | None,
    ignore_labels: list[int],
    class_colors: list[Color] | None,
) -> None:
    check_class_names(class_names)
    for field, labels in {"class_map": list(class_map or {}), "ignore_labels": ignore_labels}.items():
        for label in labels:
            if not 0 <= label <= MAX_LABEL:
                raise UserError(f"{field}: label {label}; labels from 0 to {MAX_LABEL} can be read")
    for color in class_colors or []:
        if any(not 0 <= value <= 255 for value in color) or (class_colors or []).count(color) > 1:
            raise UserError(f"class_colors: {tuple(color)}; colors must differ and have values from 0 to 255")
    if class_colors and len(class_colors) > MAX_CLASSES:
        raise UserError(f"class_colors: {len(class_colors)} colors; at most {MAX_CLASSES} are possible")


def _num_mapped_classes(class_map: dict[int, int]) -> int:
    ids = sorted(set(class_map.values()) - {IGNORE_INDEX})
    if ids != list(range(len(ids))):
        raise UserError(
            f"class_map: class ids [{listed(ids)}]; must be 0, 1, 2, ... without a gap, "
            f"beside {IGNORE_INDEX} for ignored"
        )
    return len(ids)


def infer_num_classes(labels: set[int], ignore_labels: list[int]) -> int:
    """Return the number of classes of masks that hold just these raw labels.

    Raises:
        UserError: The labels are not 0..K-1 with K of at least 2, beside the ignored ones.
    """
    classes = sorted(labels - set(ignore_labels))
    if len(classes) < 2:
        raise UserError(f"path: the training masks hold only {one_class_problem(labels)}")
    if classes != list(range(len(classes))):
        missing = min(set(range(len(classes))) - set(classes))
        proposal = "{" + ", ".join(f"{label}: {index}" for index, label in enumerate(classes[:12])) + "}"
        proposal = proposal if len(classes) <= 12 else proposal[:-1] + ", ...}"
        raise UserError(
            f"path: the training masks hold labels {listed(classes)}, but no {missing}; "
            f"give class_names if some classes are absent, or class_map: {proposal}"
        )
    if len(classes) > MAX_CLASSES:
        raise UserError(
            f"path: the training masks hold {len(classes)} labels; at most {MAX_CLASSES} classes are possible"
        )
    return len(classes)


def one_class_problem(labels: set[int]) -> str:
    """Say which labels masks of a single class hold, and what would do."""
    if labels == {0, 255}:
        return "labels 0 and 255 (ignored); if 255 is a class, give class_map: {0: 0, 255: 1} and ignore_labels: []"
    return f"labels {listed(sorted(labels))}, of which fewer than two are classes; check class_map and ignore_labels"


def threshold_map(threshold: int, class_map: dict[int, int] | None, class_colors: list[Color] | None) -> dict[int, int]:
    """Return the class id of each gray value: 1 from a threshold on, else 0.

    Raises:
        UserError: The threshold leaves a class without values, or other fields state classes too.
    """
    if not 1 <= threshold <= 255:
        raise UserError(f"mask_threshold: {threshold}; gray values are 0 to 255, so 1 to 255 makes two classes")
    if class_map is not None or class_colors is not None:
        raise UserError("mask_threshold: states the classes, and so does class_map or class_colors; give one of them")
    return {value: int(value >= threshold) for value in range(256)}


class LabelTable:
    """The class id of every raw label.

    Args:
        num_classes: Number of classes; without `class_map`, label i is class i.
        class_map: Class id of each raw label, 255 for ignored.
        ignore_labels: Raw labels that become 255.
        advice: What helps against a label that is none of these.
    """

    def __init__(
        self,
        num_classes: int,
        class_map: dict[int, int] | None,
        ignore_labels: list[int],
        advice: str = "give it a class in class_map, or add it to ignore_labels",
    ) -> None:
        self.num_classes, self.advice = num_classes, advice
        self._table = np.full(MAX_LABEL + 1, -1, dtype=np.int16)
        if class_map is None:
            self._table[:num_classes] = np.arange(num_classes)
        else:
            self._table[list(class_map)] = list(class_map.values())
        self._table[ignore_labels] = IGNORE_INDEX
        narrow = self._table[:256]
        self._narrow = np.where(narrow < 0, DOUBTFUL, narrow).astype(np.uint8)

    def file_labels(self) -> list[int]:
        """Return the raw label of each class; of several the smallest."""
        return [int(np.flatnonzero(self._table == class_id)[0]) for class_id in range(self.num_classes)]

    def class_ids(self, raw: np.ndarray, file: ImageFile) -> np.ndarray:
        """Map raw labels (H, W) to class ids (H, W) uint8, 255 = ignored.

        Raises:
            UserError: A label is neither a class nor ignored; `file` is named.
        """
        if raw.dtype == np.uint8:
            ids = look_up(self._narrow, raw)
            if not (ids == DOUBTFUL).any():
                return ids
        exact = self._table[raw]
        if exact.min(initial=0) < 0:
            labels, pixels = np.unique(raw[exact < 0], return_counts=True)
            self._refuse(int(labels[0]), int(pixels[0]), file)
        return exact.astype(np.uint8)

    def classes_present(self, histogram: dict[int, int], file: ImageFile) -> set[int]:
        """Return the class ids among a mask's raw labels, given as pixels per label.

        Raises:
            UserError: A label is neither a class nor ignored; `file` is named.
        """
        for label, pixels in histogram.items():
            if self._table[label] < 0:
                self._refuse(label, pixels, file)
        return {int(self._table[label]) for label in histogram} - {IGNORE_INDEX}

    def _refuse(self, label: int, pixels: int, file: ImageFile) -> None:
        raise UserError(f"{file}: label {label} ({pixels} pixels) is neither a class nor ignored; {self.advice}")
