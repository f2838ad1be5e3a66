"""Graphs that answer questions give the answers of the network, chosen or written, greedily and by beam search."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import eomt
from datamodules.questions.tokens import TokenTable
from eomt.errors import UserError
from eomt.export.answering_runtime import GraphAnswerer
from eomt.predictors.answers import AnswerPredictor
from eomt.tasks import VisualQuestionAnswering
from tests.export.exported import export
from tests.tiny_vqa import ANSWERS, BERT, TYPES, enlarge_weights, make_questions, make_tokenizer, make_vqa

END = 2
QUESTIONS = ["what colour is the circle ?", "is there a red square ?", "what shape ?", "Is there a zebra?"]


def make_task(folder: Path, seed: int, **arguments: Any) -> VisualQuestionAnswering:
    """A task whose answers depend on all that its network sees."""
    network = make_vqa(tokenizer=str(make_tokenizer(folder / "words")), **arguments)
    enlarge_weights(network, seed)
    if network.answer_head == "classification":
        with torch.no_grad():
            # each answer is as likely as the others on average
            network.classifier[-1].bias -= network.eval()(**make_questions(batch=24)).logits.mean(0)
    weight = 0.5 if network.question_types else 0.0
    return VisualQuestionAnswering(network.eval(), type_head_weight=weight, num_beams=3, max_answer_tokens=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answering")


@pytest.fixture(scope="module")
def writer(folder: Path) -> VisualQuestionAnswering:
    task = make_task(folder, 1)
    with torch.no_grad():
        # answers of several lengths
        task.network.text_model.final_logits_bias[0, END] = 2.0
    export(task, folder / "writer")
    return task


def pictures(folder: Path) -> list[Path]:
    """Files of images that need not be resized."""
    files = []
    for index, image in enumerate(make_questions()["images"]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
        files.append(folder / f"{index}.png")
    return files


def reference(task: VisualQuestionAnswering) -> AnswerPredictor:
    tokens = TokenTable(task.network.tokenizer_source)
    return AnswerPredictor(task.network, tokens, torch.device("cpu"), task.num_beams, task.max_answer_tokens)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_written_answers_are_those_of_the_network(
    writer: VisualQuestionAnswering, folder: Path, num_beams: int
) -> None:
    predictor = eomt.load(folder / "writer")
    asked = make_questions(batch=24, length=7, images=24)
    # questions of several lengths, several about one image
    for row, length in enumerate(torch.arange(24) % 5 + 3):
        asked["attention_mask"][row, length:] = 0
        asked["input_ids"][row, length:] = 1
    places = {"image_index": torch.arange(24) // 2, "num_beams": num_beams, "max_new_tokens": 6}
    found = predictor.model.generate(**asked, **places)
    expected = [row[: row.index(END) + 1] if END in row else row for row in writer.network.generate(**asked, **places)]
    assert found == expected
    assert len({len(row) for row in found}) > 1
    assert len({tuple(row) for row in found}) > 4
    assert predictor.model.answer(**asked, **places) == writer.network.answer(**asked, **places)


def test_a_written_answer_to_a_question_in_words(writer: VisualQuestionAnswering, folder: Path, tmp_path: Path) -> None:
    record = json.loads((folder / "writer" / "export.json").read_text())
    check = record["checks"]["onnxruntime"]
    assert {graph["name"] for graph in record["graphs"]} == {"vision_encoder", "text_encoder", "decoder"}
    assert max(check["differences"].values()) < 1e-4
    assert check["metrics"]["same_answers"] == [1.0, 1.0]
    predictor, files = eomt.load(folder / "writer"), pictures(tmp_path)
    assert (predictor.num_beams, predictor.max_answer_tokens) == (3, 6)
    for image in files:
        found, expected = predictor.predict(image, QUESTIONS), reference(writer).predict(image, QUESTIONS)
        assert [result.answer for result in found] == [result.answer for result in expected]
    run = [sys.executable, folder / "writer" / "example.py", files[0], QUESTIONS[0]]
    answer = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    # the example takes the most likely token each time
    greedy = AnswerPredictor(writer.network, reference(writer).tokens, torch.device("cpu"), 1, 6)
    assert answer == {"answer": greedy.predict(files[0], QUESTIONS[0]).answer}


def test_a_folder_is_asked_without_transformers(writer: VisualQuestionAnswering, folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys, eomt; print(eomt.load(sys.argv[1]).predict(sys.argv[2], 'what ?').answer); "
        "assert not {'transformers', 'timm', 'lightning'} & set(sys.modules)"
    )
    run = [sys.executable, "-c", code, folder / "writer", pictures(tmp_path)[0]]
    found = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    assert found == reference(writer).predict(pictures(tmp_path)[0], "what ?").answer


@pytest.mark.parametrize("arguments", [{"text_model": BERT}, {"question_types": TYPES}], ids=["bert", "bart"])
def test_chosen_answers_are_those_of_the_network(tmp_path: Path, arguments: dict[str, Any]) -> None:
    task = make_task(tmp_path, 3, answer_head="classification", **arguments)
    record = export(task, tmp_path / "graphs")
    assert [graph.name for graph in record.graphs] == ["vision_encoder", "answer"]
    assert record.checks["onnxruntime"].differences["answer"] < 1e-4
    assert record.graphs[1].outputs[0].shape == ["batch", len(ANSWERS)]
    predictor, files = eomt.load(tmp_path / "graphs"), pictures(tmp_path)
    found = [result.answer for image in files for result in predictor.predict(image, QUESTIONS)]
    assert found == [result.answer for image in files for result in reference(task).predict(image, QUESTIONS)]
    assert len(set(found)) > 1
    run = [sys.executable, tmp_path / "graphs" / "example.py", files[1], QUESTIONS[1]]
    answer = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert answer == {"answer": predictor.predict(files[1], QUESTIONS[1]).answer}


def test_the_text_encoder_of_a_bart_stays_in_full_precision(
    writer: VisualQuestionAnswering, folder: Path, tmp_path: Path
) -> None:
    half = export(writer, tmp_path / "graphs", dtype="fp16")
    full = json.loads((folder / "writer" / "export.json").read_text())
    sizes = {graph["name"]: graph["bytes"] for graph in full["graphs"]}
    assert [graph.bytes < 0.75 * sizes[graph.name] for graph in half.graphs] == [True, False, True]


def test_another_answer_than_the_network_gives_leaves_nothing(
    writer: VisualQuestionAnswering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GraphAnswerer, "answer", lambda self, images, ids, *_, **__: ["another"] * len(ids))
    with pytest.raises(UserError, match=r"same_answers is 0\.0000 by onnxruntime and 1\.0000 by PyTorch"):
        export(writer, tmp_path / "graphs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "{}"], ids=["missing", "empty", "no tokenizer"])
def test_a_damaged_tokenizer_is_refused(
    writer: VisualQuestionAnswering, folder: Path, tmp_path: Path, content: str | None
) -> None:
    copied = shutil.copytree(folder / "writer", tmp_path / "copied")
    if content is None:
        shutil.rmtree(copied / "tokenizer")
    else:
        (copied / "tokenizer" / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer.*give a folder that `export` wrote"):
        eomt.load(copied)


def test_another_tokenizer_than_the_one_that_was_written_is_refused(
    writer: VisualQuestionAnswering, folder: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(folder / "writer", tmp_path / "copied")
    words = copied / "tokenizer" / "tokenizer.json"
    words.write_text(words.read_text().replace('"red"', '"der"'))
    with pytest.raises(UserError, match=r"tokenizer.json: is not the file that export.json names"):
        eomt.load(copied, "cpu")
    shutil.copy(folder / "writer" / "tokenizer" / "tokenizer.json", words)
    (copied / "tokenizer" / "vocab.txt").write_text("red")
    with pytest.raises(UserError, match=r"tokenizer: vocab.txt is none of the files that export.json names"):
        eomt.load(copied, "cpu")
