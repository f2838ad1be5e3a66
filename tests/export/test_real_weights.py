"""An EoMT on DINOv2's own weights, on real photographs: the graph finds the same classes and the same IoU."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

import eomt
from eomt.models import EoMT, ViT
from eomt.predictors.of_tasks import EoMTScorer
from eomt.predictors.segmentation import SegmentationPredictor
from eomt.tasks import SemanticSegmentation
from tests.export.exported import export

SHARED = Path(__file__).parents[3] / "shared"
WEIGHTS, IMAGES = SHARED / "weights" / "dinov2-small", SHARED / "data" / "nuclei"


@pytest.mark.slow
@pytest.mark.skipif(not (WEIGHTS.is_dir() and IMAGES.is_dir()), reason="the shared weights or images are not here")
def test_dinov2_small_on_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = ViT("vit_small_patch14_dinov2", (224, 224), pretrained=str(WEIGHTS))
    network = EoMT(encoder, num_classes=3, num_q=20, masked_attn_enabled=False).eval()
    torch.nn.init.normal_(network.class_head.weight, std=0.5)
    files = sorted((IMAGES / "val" / "images").iterdir())[:4]
    images = [pil_to_tensor(Image.open(file).convert("RGB")) for file in files]
    task = SemanticSegmentation(network)
    # what the network itself finds stands for the truth, so that the figure is that of agreement
    theirs = SegmentationPredictor(EoMTScorer(network), ["a", "b", "c"], torch.device("cpu"))
    expected = theirs.predict(files)
    assert any(len(result.labels) > 1 for result in expected)
    masks = [torch.from_numpy(result.class_map) for result in expected]
    batch = {"image": images, "mask": masks, "name": [file.name for file in files]}
    monkeypatch.setattr(task, "synthetic_batch", lambda size: batch)
    record = export(task, tmp_path / "graphs")
    check = record.checks["onnxruntime"]
    assert check.differences["model"] < 1e-3
    assert check.metrics["val_accuracy"][0] == 1.0
    assert check.metrics["val_iou"][1] == pytest.approx(1.0, abs=1e-3)
    for found, result in zip(eomt.load(tmp_path / "graphs").predict(files), expected, strict=True):
        assert (found.class_map == result.class_map).mean() > 0.999
