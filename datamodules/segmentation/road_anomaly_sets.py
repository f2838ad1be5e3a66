"""Road-anomaly data sets on disk: which images and masks there are, and what their labels mean."""

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datamodules.common.file_names import ends_with, stem_of, stems_of
from datamodules.common.label_arrays import look_up
from datamodules.common.pairs import find_files, find_image_files
from datamodules.common.reading import read_mask
from eomt.errors import UserError
from eomt.metrics.anomaly import ROAD_OBSTACLE, set_key
from eomt.utils.labels import IGNORE_INDEX

ANOMALY = 1
FRAME_LABELS = "labels_semantic.png"
# raw label -> 0 usual, 1 anomaly, 255 ignored, as in the literature; other sets hold these three already
ROAD_ANOMALY_LABELS = {2: ANOMALY}
LOST_AND_FOUND_LABELS = {0: IGNORE_INDEX, 1: 0} | dict.fromkeys(range(2, 201), ANOMALY)

# what SegmentMeIfYouCan does not measure. Of LostAndFound scenes and sequences with children and bicycles, which are
# known classes; a frame is <scene>_<sequence>_<time>
KNOWN_OBJECTS = (
    *("15_Rechbergstr_Deckenpfronn_", "01_Hanns_Klemm_Str_45_000006_", "01_Hanns_Klemm_Str_45_000007_"),
    "10_Schlossberg_9_000004_",
)
# of its own obstacle track these frames
UNUSED_VALIDATION = ("validation_19", *(f"validation_2{digit}" for digit in range(1, 10)))
LOST_AND_FOUND_IMAGE, LOST_AND_FOUND_MASK = "_leftImg8bit", "_gtCoarse_labelIds.png"


@dataclass(frozen=True)
class AnomalySample:
    """An image of a set.

    Args:
        dataset: Name of the set.
        name: Begins with the set's.
        image: Its file.
        mask: None where it is not public.
        is_measured: Whether the benchmark measures it; what it leaves out can be predicted all the same.
    """

    dataset: str
    name: str
    image: Path
    mask: Path | None
    is_measured: bool = True


@dataclass(frozen=True)
class AnomalySet:
    """A data set.

    Args:
        name: The folder's name.
        samples: Images, sorted by name.
        label_map: New values of raw labels; a label that is not there stays.
        measures_void: Whether images whose masks hold no labeled pixel are measured.
    """

    name: str
    samples: list[AnomalySample]
    label_map: dict[int, int] = field(default_factory=dict)
    measures_void: bool = True

    @property
    def raw_labels(self) -> str:
        """Labels that a mask may hold, for people."""
        return f"0 to {max(self.label_map)} or {IGNORE_INDEX}" if self.label_map else f"0, {ANOMALY} or {IGNORE_INDEX}"

    def read_anomaly(self, mask: Path, image: Path) -> np.ndarray:
        """Read the mask of an image as 0 usual, 1 anomaly, 255 ignored, (H, W) uint8.

        Raises:
            UserError: The file is damaged, or has labels beyond these.
        """
        raw = read_mask(mask, image=image)
        table = np.arange(np.iinfo(raw.dtype).max + 1, dtype=raw.dtype)
        table[list(self.label_map)] = list(self.label_map.values())
        labels = look_up(table, raw) if raw.dtype == np.uint8 else table[raw]
        unknown = (labels != 0) & (labels != ANOMALY) & (labels != IGNORE_INDEX)
        if unknown.any():
            values, pixels = np.unique(labels[unknown], return_counts=True)
            advice = "RoadAnomaly's and LostAndFound's own labels are understood in folders of these names"
            if self.label_map:
                advice = (
                    f"a folder of that name is read as the original; give one of 0, 1 and {IGNORE_INDEX} another name"
                )
            raise UserError(f"{mask}: label {values[0]} ({pixels[0]} pixels); must be {self.raw_labels}: {advice}")
        return labels.astype(np.uint8, copy=False)


def find_anomaly_sets(path: Path) -> dict[str, AnomalySet]:
    """Find the sets in a folder, or the one that the folder is, sorted by name.

    Layouts: `images` and `labels_masks`, masks under the image's name; the same with "_labels_semantic" after the name
    (SegmentMeIfYouCan), where images may lack a mask; `frames` with X.jpg and X.labels/labels_semantic.png (the
    original RoadAnomaly); `leftImg8bit` and `gtCoarse` (the original LostAndFound, its test split). Images that
    SegmentMeIfYouCan leaves out of LostAndFound and of its own obstacle track are marked as not measured.

    Raises:
        UserError: There is none, or images and masks do not belong together.
    """
    if not path.is_dir():
        raise UserError(f"path: {path} is not a folder; give the folder of the anomaly sets")
    folders = [path] if _is_set(path) else sorted(folder for folder in path.iterdir() if _is_set(folder))
    if not folders:
        raise UserError(
            f"path: {path} holds no folder with 'images' and 'labels_masks' or with 'frames'; see RoadAnomaly's layouts"
        )
    return {found.name: found for found in map(_read_set, folders)}


def _is_set(folder: Path) -> bool:
    return any((folder / part).is_dir() for part in ("labels_masks", "frames", "gtCoarse/test"))


def _read_set(folder: Path) -> AnomalySet:
    # a relative path such as "." has no name of its own
    name = folder.absolute().name
    if (folder / "frames").is_dir():
        return AnomalySet(name, _samples(name, _frames(folder / "frames")), ROAD_ANOMALY_LABELS)
    if (folder / "gtCoarse").is_dir():
        samples = _samples(name, _lost_and_found(folder), KNOWN_OBJECTS)
        return AnomalySet(name, samples, LOST_AND_FOUND_LABELS, measures_void=False)
    files = _images_and_masks(folder)
    label_map = {"RoadAnomaly": ROAD_ANOMALY_LABELS, "LostAndFound": LOST_AND_FOUND_LABELS}.get(name, {})
    unused = tuple(f"{frame}." for frame in UNUSED_VALIDATION) if set_key(name) in ROAD_OBSTACLE else ()
    return AnomalySet(name, _samples(name, files, unused), label_map)


def _lost_and_found(folder: Path) -> list[tuple[str, Path, Path | None]]:
    images, masks = folder / "leftImg8bit" / "test", folder / "gtCoarse" / "test"
    frames = [name for name in find_image_files(images) if ends_with(os.path.splitext(name)[0], LOST_AND_FOUND_IMAGE)]
    stems = {stem_of(stem, LOST_AND_FOUND_IMAGE): name for stem, name in _by_stem(images, frames).items()}
    found = stems_of(find_files(masks, (".png",)), LOST_AND_FOUND_MASK, masks)
    paired = _paired(images, stems, {stem: masks / name for stem, name in found.items()}, may_lack_masks=False)
    return [(Path(name).name, file, mask) for name, file, mask in paired]


def _samples(
    dataset: str, files: list[tuple[str, Path, Path | None]], left_out: tuple[str, ...] = ()
) -> list[AnomalySample]:
    """Return the samples of a set; those whose names begin with one of `left_out` are not measured."""
    return [
        AnomalySample(dataset, f"{dataset}/{name}", image, mask, is_measured=not name.startswith(left_out))
        for name, image, mask in files
    ]


def _frames(folder: Path) -> list[tuple[str, Path, Path | None]]:
    found = [name for name in find_files(folder, (FRAME_LABELS,)) if name.count("/") == 1]
    masks = stems_of(found, f".labels/{FRAME_LABELS}", folder)
    images = _by_stem(folder, [name for name in find_image_files(folder) if "/" not in name])
    return _paired(folder, images, {stem: folder / name for stem, name in masks.items()}, may_lack_masks=False)


def _images_and_masks(folder: Path) -> list[tuple[str, Path, Path | None]]:
    images = _by_stem(folder / "images", find_image_files(folder / "images"))
    names = find_image_files(folder / "labels_masks", (".png",))
    ending = "_labels_semantic.png"
    is_official = any(ends_with(name, ending) for name in names)
    # the official masks have colored twins for the eye
    stems = stems_of(names, ending if is_official else ".png", folder / "labels_masks")
    masks = {stem: folder / "labels_masks" / name for stem, name in stems.items()}
    return _paired(folder / "images", images, masks, may_lack_masks=is_official)


def _by_stem(folder: Path, names: Iterable[str]) -> dict[str, str]:
    stems: dict[str, str] = {}
    for name in sorted(names):
        stem = unicodedata.normalize("NFC", os.path.splitext(name)[0])
        if stem in stems:
            raise UserError(f"{folder / name}: shares its mask with {stems[stem]}; keep one of the two")
        stems[stem] = name
    return stems


def _paired(
    folder: Path, images: dict[str, str], masks: dict[str, Path], may_lack_masks: bool
) -> list[tuple[str, Path, Path | None]]:
    lonely = [stem for stem in images if stem not in masks]
    if not images or (lonely and not may_lack_masks):
        missing = f"no mask for {folder / images[lonely[0]]}" if lonely else f"{folder}: no images"
        raise UserError(f"{missing} ({len(lonely)} of {len(images)} images have none); add files, or remove the folder")
    orphans = sorted(stem for stem in masks if stem not in images)
    if orphans:
        raise UserError(
            f"{masks[orphans[0]]}: no image {orphans[0]} in {folder} ({len(orphans)} of {len(masks)} masks have none); "
            "add the images, or remove the masks"
        )
    return [(name, folder / name, masks.get(stem)) for stem, name in images.items()]
