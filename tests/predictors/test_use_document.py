"""docs/use.md: its code runs, on tiny networks under the names that it gives to runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eomt
from datamodules.questions.tokens import TokenTable
from eomt.predictors.answers import AnswerPredictor
from eomt.predictors.classes import ClassPredictor
from eomt.predictors.faces import MorphPredictor, ReconstructionPredictor
from eomt.predictors.objects import InstancePredictor, PanopticPredictor
from eomt.predictors.of_tasks import EoMTQueries, EoMTScorer
from eomt.predictors.prompted import PromptedPredictor
from eomt.predictors.segmentation import SegmentationPredictor
from tests.documents import ROOT, blocks
from tests.tiny import make_eomt
from tests.tiny_classification import make_classifier
from tests.tiny_morph import make_detector, make_mae
from tests.tiny_sam2 import make_sam2
from tests.tiny_vqa import make_tokenizer, make_vqa

USE = ROOT / "docs" / "use.md"
IMAGES = ("street.jpg", "cells.png", "strip.jpg", "passport.png", "photo.jpg", "a.png", "b.png")


def predictors(folder: Path) -> dict[str, Any]:
    cpu = torch.device("cpu")
    tokens = TokenTable(str(make_tokenizer(folder / "tokenizer")))
    return {
        "runs/streets": SegmentationPredictor(EoMTScorer(make_eomt().eval()), ["road", "sky", "a", "b", "c"], cpu),
        "runs/cells": InstancePredictor(EoMTQueries(make_eomt().eval()), ["road", "sky", "a", "b", "c"], cpu, 0.0),
        "runs/coco": PanopticPredictor(EoMTQueries(make_eomt().eval()), ["road", "sky", "a", "b", "c"], cpu, [1], 0.0),
        "runs/steel": PromptedPredictor(make_sam2().eval(), ["defect_1"], cpu),
        "runs/classes": ClassPredictor(make_classifier().eval(), ["ape", "bee", "cat"], cpu),
        "runs/morphs": MorphPredictor(make_detector().eval(), 0.5, cpu),
        "runs/questions": AnswerPredictor(make_vqa(answer_head="classification", answers=["yes", "no"]), tokens, cpu),
        "runs/faces_mae": ReconstructionPredictor(make_mae().eval(), cpu),
    }


def test_the_code_of_the_document_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = predictors(tmp_path)
    pushed: list[tuple[Any, ...]] = []
    monkeypatch.setitem(vars(eomt), "load", lambda path: known[path])
    monkeypatch.setitem(vars(eomt), "push", lambda *given, **options: pushed.append((*given, options)))
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (70, 130, 3), dtype=np.uint8)
    for name in IMAGES:
        Image.fromarray(noise).save(name)
    names: dict[str, Any] = {}
    code = blocks(USE, "python")
    for block in code:
        exec(block, names)
    for written in (
        "overlay.png",
        "classes.png",
        "anomaly.png",
        "segments.png",
        "objects.json",
        "scores.csv",
        "classes.csv",
        "rebuilt.png",
    ):
        assert (tmp_path / written).is_file(), written
    assert {result.answer for result in names["several"]} <= {"yes", "no"}
    assert len(names["pairs"]) == len(names["several"]) == 2
    assert pushed == [("runs/steel", "user/steel-lora", {"base": "user/steel-base"})]
    assert names["results"][0].is_morph in (True, False)
