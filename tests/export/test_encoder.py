"""The graph of a pre-trained encoder gives the features that `MAEEncoder` gives; what has none is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import eomt
from eomt.errors import UserError
from eomt.models import MAEEncoder
from eomt.models.mae import save_encoder
from eomt.tasks import MaskedAutoencoding, VisualQuestionAnswering
from tests.export.exported import export
from tests.tiny_morph import SIZES, enlarge_weights, make_image, make_mae
from tests.tiny_vqa import make_vqa


def test_features_are_those_of_the_encoder_that_is_saved(tmp_path: Path) -> None:
    network = make_mae()
    enlarge_weights(network)
    encoder = MAEEncoder(str(save_encoder(network, tmp_path / "encoder")), **SIZES).eval()
    task = MaskedAutoencoding(network)
    record = export(task, tmp_path / "graphs")
    assert record.checks["onnxruntime"].metrics == {}
    files = []
    for index, image in enumerate(make_image(3)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{index}.png")
        files.append(tmp_path / f"{index}.png")
    run = [sys.executable, tmp_path / "graphs" / "example.py", *files]
    found = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    expected = encoder(make_image(3))[:, 1:].mean(1).tolist()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4)
    with pytest.raises(UserError, match="an encoder, which predicts nothing by itself"):
        eomt.load(tmp_path / "graphs")


def test_a_network_that_cannot_be_asked_in_words_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokenizer: null, and exported graphs are asked in words"):
        export(VisualQuestionAnswering(make_vqa()), tmp_path / "graphs")
    assert list(tmp_path.iterdir()) == []
