"""Areas that COCO's files state, from the reader to the metric, against pycocotools' COCOeval on the same file."""

import contextlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eomt.metrics import MaskAveragePrecision
from eomt.models.post_processing import Instances
from eomt.tasks import InstanceSegmentation
from eomt.tasks.object_segmentation import true_objects
from eomt.utils.packed_masks import PackedMasks
from tests.datamodules.objects.coco_data import CATEGORIES, coco_instances, write_coco, write_document
from tests.tiny import make_eomt

FIGURES = ("map", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def by_pycocotools(file: Path, found: list[dict[str, Any]]) -> list[float]:
    """Return the first six figures of COCOeval; -1, no truth, is nan."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
        evaluation = COCOeval(coco, coco.loadRes(found), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [value if value >= 0 else math.nan for value in evaluation.stats[:6]]


@pytest.mark.parametrize("component", [False, True])
def test_the_areas_of_the_file_say_what_is_small(tmp_path: Path, component: bool) -> None:
    """Objects of a tiny image that are called medium and large, crowds among them."""
    random = np.random.default_rng(0)
    documents = write_coco(tmp_path, train=4, val=12)
    for entry in documents["val"]["annotations"]:
        entry["area"] = float(random.choice([900.0, 2000.5, 20000.0]))
    file = write_document(tmp_path / "annotations" / "instances_val2017.json", documents["val"])
    data = coco_instances(tmp_path, objects="component" if component else "instance")
    task = InstanceSegmentation(make_eomt(num_classes=3))
    metric, found = MaskAveragePrecision(3), list[dict[str, Any]]()
    ids = {image["file_name"]: image["id"] for image in documents["val"]["images"]}
    category_ids = sorted(category["id"] for category in CATEGORIES)
    for batch in data.val_dataloader():
        for truth, name in zip(true_objects(batch), batch["name"], strict=True):
            moved = np.roll(truth.masks.dense().numpy(), random.integers(0, 3), axis=2)
            scores = torch.from_numpy(random.random(len(moved)))
            task.measure(metric, Instances(PackedMasks.of(torch.from_numpy(moved)), truth.labels, scores), truth)
            for mask, label, score in zip(moved, truth.labels.tolist(), scores.tolist(), strict=True):
                segmentation = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
                entry = {"image_id": ids[name], "category_id": category_ids[label], "score": score}
                found.append(entry | {"segmentation": segmentation})
    figures = metric.compute()
    ours = [float(figures[name]) for name in FIGURES]
    if component:
        # other objects than those that the file is about: their pixels count
        assert math.isnan(ours[5])
    else:
        assert not any(map(math.isnan, ours))
        np.testing.assert_allclose(ours, by_pycocotools(file, found), rtol=0, atol=1e-12)


def test_areas_that_can_be_none_are_those_of_the_pixels(tmp_path: Path) -> None:
    documents = write_coco(tmp_path)
    stated: list[Any] = [None, "12", -1, True, [3], 0, 7, 1e400, 10**400]
    for entry, area in zip(documents["val"]["annotations"], stated, strict=False):
        entry["area"] = area
    del documents["val"]["annotations"][9]["area"]
    write_document(tmp_path / "annotations" / "instances_val2017.json", documents["val"])
    found = {float(area) for batch in coco_instances(tmp_path).val_dataloader() for area in batch["areas"][0]}
    assert {area for area in found if not math.isnan(area)} == {0, 7, 1.5}
    areas = torch.cat([batch["areas"][0] for batch in coco_instances(tmp_path).val_dataloader()])
    assert int(areas.isnan().sum()) == 8
