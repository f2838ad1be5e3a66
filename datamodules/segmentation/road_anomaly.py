"""Road anomalies: images of unknown objects, to test a network that was trained on other data."""

import logging
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from datamodules.common.image_data_module import ImageDataModule
from datamodules.common.sampling import collate_any_size
from datamodules.common.splits import seeded_split
from datamodules.common.to_predict import PredictPath, find_images
from datamodules.common.zip_members import ImageFile
from datamodules.segmentation.image_mask_dataset import ImageDataset, blank_image
from datamodules.segmentation.road_anomaly_dataset import AnomalyDataset, find_labels
from datamodules.segmentation.road_anomaly_sets import ANOMALY, AnomalySample, AnomalySet, find_anomaly_sets
from eomt.errors import UserError, listed, shortened
from eomt.utils.labels import IGNORE_INDEX
from eomt.utils.paths import expand

log = logging.getLogger("eomt")


class RoadAnomaly(ImageDataModule):
    """Sets of road scenes in which unknown objects are marked; to test on, with no classes and no training images.

    `path` holds a folder for each set, or is such a folder: `images` and `labels_masks` (RoadAnomaly21, RoadObsticle21,
    FS_LostFound_full, fs_static, RoadAnomaly; or SegmentMeIfYouCan's own, where images without a public mask are left
    out), or `frames` (the original RoadAnomaly), or `leftImg8bit` and `gtCoarse` (the original LostAndFound: its test
    split, measured as in SegmentMeIfYouCan without children and bicycles, which are known classes, and without images
    of which nothing is labeled: 1,043 are left). A set's name is its folder's. The labels are 0 usual, 1 anomaly and
    255 ignored; those of RoadAnomaly and LostAndFound are mapped to these.

    Batches are dicts: `image` (B, 3, H, W) uint8 RGB, `anomaly` (B, H, W) int64, `name`, list of B file names that
    begin with the set's name, and `dataset`, list of B set names. A sample with an empty name is padding of a rank.

    A temperature must not be chosen on images that are tested: it wants a set of its own (`val_set`), or a share of
    each set (`val_fraction`); these images are the validation loader's, and no longer the test loader's.

    Args:
        path: Folder of the sets.
        sets: Sets to test on; null for all but `val_set`.
        val_set: Set of validation.
        val_fraction: Share of each set's images that serve as validation.
        split_seed: Seed of that share.
        skip_without_anomaly: Whether images without an anomaly are left out.
        eval_batch_size: Samples per step; 1 where images differ in size.
        num_workers: Processes that read files.
        predict_path: Images to predict: files, folders and patterns, one or a list; null for
            all images of the sets.

    Attributes:
        counts: After `setup`, per split the number of "images", and of each set's images.
        left_out: After `setup`, per set the number of images without a public mask.
        not_measured: After `setup`, per set the number of images with one that the benchmark leaves out.

    Raises:
        UserError: Fields contradict each other or have impossible values.
    """

    def __init__(
        self,
        path: Path,
        sets: list[str] | None = None,
        val_set: str | None = None,
        val_fraction: float = 0.0,
        split_seed: int = 0,
        skip_without_anomaly: bool = False,
        eval_batch_size: int = 1,
        num_workers: int = 2,
        predict_path: PredictPath = None,
    ) -> None:
        super().__init__(1, eval_batch_size, num_workers, predict_path)
        if not 0 <= val_fraction < 1:
            raise UserError(f"val_fraction: {val_fraction}; must be at least 0 and below 1")
        if val_set is not None and val_fraction:
            raise UserError(f"val_set, val_fraction: {val_set}, {val_fraction}; give one of the two")
        if val_set is not None and val_set in (sets or []):
            raise UserError(f"val_set: {val_set} is also in sets; what is chosen on a set is not tested on it")
        self.path = expand(path)
        self.sets = sets
        self.val_set = val_set
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.skip_without_anomaly = skip_without_anomaly
        self.left_out: dict[str, int] = {}
        self.not_measured: dict[str, int] = {}
        self._anomaly_sets: dict[str, AnomalySet] | None = None
        self._splits: dict[str, list[AnomalySample]] | None = None

    @property
    def has_validation(self) -> bool:
        """True where some images serve as validation."""
        return self.val_set is not None or self.val_fraction > 0

    def setup(self, stage: str | None = None) -> None:
        """Look at every file, and fill `counts` and `left_out`.

        Raises:
            UserError: There is nothing to train on, a file cannot be used, or nothing is left to test.
        """
        if stage == "fit":
            raise UserError(f"{self.path}: anomaly sets have no training images; use test")
        if stage == "predict":
            return
        for split, samples in self._found().items():
            self.counts[split] = {"images": len(samples)} | {
                name: sum(sample.dataset == name for sample in samples) for name in self._used_sets()
            }
        for name, anomaly_set in self._used_sets().items():
            self.left_out[name] = sum(sample.mask is None for sample in anomaly_set.samples)
            if self.left_out[name]:
                log.info("%s: %d images without a public mask are left out", name, self.left_out[name])
            if self.not_measured[name]:
                log.info("%s: %d images are left out, as by the benchmark", name, self.not_measured[name])

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the images on which a temperature may be chosen, in order.

        Raises:
            UserError: Neither `val_set` nor `val_fraction` was given.
        """
        if not self.has_validation:
            raise UserError(f"{self.path}: no images of validation; give val_set or val_fraction")
        return self.evaluation_loader(AnomalyDataset(self._found()["val"], self._used_sets()))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the images of all sets but those of validation, set by set."""
        return self.evaluation_loader(AnomalyDataset(self._found()["test"], self._used_sets()))

    def test_sets(self) -> list[str]:
        """Return the names of the sets that are tested."""
        return [name for name in self._used_sets() if name != self.val_set]

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the images of `predict_path`, or else of all sets, those that are not measured too.

        Raises:
            UserError: `predict_path` does not exist or holds no image.
        """
        files: list[tuple[str, ImageFile]]
        if self.predict_path is not None:
            files = list(find_images(self.predict_path, "predict_path").items())
        else:
            files = [(sample.name, sample.image) for one in self._used_sets().values() for sample in one.samples]
        return self.prediction_loader(
            ImageDataset(files), dict(files), blank_image(self.num_channels), collate=collate_any_size
        )

    def _used_sets(self) -> dict[str, AnomalySet]:
        """Return the sets of test and validation."""
        if self._anomaly_sets is None:
            found = find_anomaly_sets(self.path)
            wanted = [*(self.sets or found), *([self.val_set] if self.val_set else [])]
            for name in wanted:
                if name not in found:
                    field = "val_set" if name == self.val_set else "sets"
                    raise UserError(
                        f"{field}: {shortened(name)!r} is not in {self.path}, which holds {listed(found)}; "
                        "give one of them"
                    )
            self._anomaly_sets = {name: found[name] for name in dict.fromkeys(wanted)}
        return self._anomaly_sets

    def _found(self) -> dict[str, list[AnomalySample]]:
        """Return the samples of "val" and "test"."""
        if self._splits is None:
            splits: dict[str, list[AnomalySample]] = {"val": [], "test": []}
            for name, anomaly_set in self._used_sets().items():
                samples = self._measurable(anomaly_set)
                names = [sample.name for sample in samples]
                share = set(seeded_split(names, self.val_fraction, 0, self.split_seed)["val"])
                for sample in samples:
                    is_val = name == self.val_set or sample.name in share
                    splits["val" if is_val else "test"].append(sample)
            for split in ("val", "test") if self.has_validation else ("test",):
                if not splits[split]:
                    raise UserError(f"{self.path}: no images with masks are left for {split}; see sets and val_set")
            self._splits = splits
        return self._splits

    def _measurable(self, anomaly_set: AnomalySet) -> list[AnomalySample]:
        """Return a set's samples that are measured, and fill `not_measured`."""
        samples = [sample for sample in anomaly_set.samples if sample.mask is not None]
        found = zip(samples, find_labels(samples, {anomaly_set.name: anomaly_set}), strict=True)
        measured = [
            (sample, labels)
            for sample, labels in found
            if sample.is_measured and (anomaly_set.measures_void or labels != {IGNORE_INDEX})
        ]
        self.not_measured[anomaly_set.name] = len(samples) - len(measured)
        return [sample for sample, labels in measured if ANOMALY in labels or not self.skip_without_anomaly]
