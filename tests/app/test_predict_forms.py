"""`predict` of a checkpoint, an adapter and a merged folder answers alike, and as `eomt.load` does."""

import csv
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import eomt
from eomt.results import coco_document
from tests.app.test_cli_classification import classification
from tests.app.test_cli_morph import detection, pretraining
from tests.app.test_cli_prompted import write_workspace as prompted
from tests.app.test_cli_vqa import make_workspace as questions
from tests.cli_runs import Workspace, make_workspace, write_images
from tests.datamodules.faces.face_files import write_face
from tests.tiny_classification import write_photo

QUESTION = "what colour is the circle ?"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Workspace, Path]]:
    """Return the workspace of a task and the folder of a run in it."""

    @cache
    def run_of(task: str) -> tuple[Workspace, Path]:
        folder = tmp_path_factory.mktemp(task)
        if task == "segmentation":
            workspace, args = make_workspace(folder), ()
        elif task.startswith("prompted"):
            workspace = prompted(folder)
            free = ("--model.network.prompt_free", "true", "--data.include_clean", "true", "--model.watch", "none")
            args = free if task == "prompted_free" else ()
        elif task == "images":
            workspace, args = classification(folder), ()
        elif task == "pretraining":
            workspace, args = pretraining(folder), ()
        elif task == "morph":
            workspace, args = detection(folder, run_of("pretraining")[1] / "encoder"), ()
        else:
            workspace, args = questions(folder, task), ()
        return workspace, workspace.fit("run", *args)

    return run_of


def forms(run: Path) -> list[Path]:
    """Checkpoint, adapter and merged folder of the best step; pre-training trains all, and has the first alone."""
    (checkpoint,) = run.glob("best_lora_*.ckpt")
    return [checkpoint, *sorted(path for path in run.glob("best_*") if path.is_dir())]


def predicted(workspace: Workspace, run: Path, form: Path, *args: str) -> Path:
    shutil.rmtree(run / "predictions", ignore_errors=True)
    workspace.run("predict", "--ckpt_path", str(form), *args, config=False)
    return run / "predictions"


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def document(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "predictions.json").read_text())


def without_scores(found: dict[str, Any]) -> dict[str, Any]:
    kept = [{key: value for key, value in item.items() if key != "score"} for item in found["annotations"]]
    return found | {"annotations": kept}


def assert_same_documents(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert without_scores(found) == without_scores(expected)
    scores = [[item.get("score", 0) for item in one["annotations"]] for one in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def assert_same_rows(found: list[dict[str, str]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, float):
                assert float(one[name]) == pytest.approx(value, abs=1e-5), name
            else:
                assert one[name] == str(value), name


def rows_of(results: list[Any]) -> list[dict[str, Any]]:
    return [row for result in results for row in result.rows()]


def test_classes_of_pixels(trained: Any, tmp_path: Path) -> None:
    workspace, run = trained("segmentation")
    write_images(tmp_path, 3, 7)
    # larger than a window
    Image.open(tmp_path / "images" / "00.png").resize((100, 70)).save(tmp_path / "images" / "02.png")
    files = sorted((tmp_path / "images").iterdir())
    documents = []
    for form in forms(run):
        folder = predicted(workspace, run, form, "--data.predict_path", str(tmp_path / "images"))
        results = eomt.load(form, "cpu").predict([*files])
        for file, result in zip(files, results, strict=True):
            assert np.array_equal(np.array(Image.open(folder / "masks" / file.name)), result.class_map)
        assert_same_rows(rows(folder), rows_of(results))
        documents.append(document(folder))
        assert_same_documents(documents[-1], coco_document(results))
    assert len(documents) == 3
    assert documents[0] == documents[1] == documents[2]


def test_prompted_objects(trained: Any, tmp_path: Path) -> None:
    workspace, run = trained("prompted")
    names = [f"{number}.png" for number in range(3)]
    random = np.random.default_rng(0)
    for name in names:
        Image.fromarray(random.integers(0, 256, (40, 90, 3), dtype=np.uint8)).save(tmp_path / name)
    boxes = {"0.png": [[2, 3, 50, 20], [10, 10, 30, 35]], "1.png": [[0, 0, 89, 39]]}
    clicks = {"0.png": [[[5, 6], [70, 30]], [[20, 20]]], "2.png": [[[1, 1]]]}
    signs = {"0.png": [[1, 0], [1]], "2.png": [[1]]}
    (tmp_path / "boxes.csv").write_text(
        "file,x0,y0,x1,y1,label\n"
        + "".join(f"{name},{','.join(map(str, box))},defect_2\n" for name, of in boxes.items() for box in of)
    )
    (tmp_path / "clicks.json").write_text(
        json.dumps(
            [
                {"file": name, "x": x, "y": y, "point_label": sign, "object": str(number)}
                for name, objects in clicks.items()
                for number, (points, labels) in enumerate(zip(objects, signs[name], strict=True))
                for (x, y), sign in zip(points, labels, strict=True)
            ]
        )
    )
    for file, asked, labels in (("boxes.csv", boxes, "defect_2"), ("clicks.json", clicks, None)):
        documents = []
        for form in forms(run):
            given = ("--data.predict_path", str(tmp_path / "*.png"), "--data.prompts", str(tmp_path / file))
            folder = predicted(workspace, run, form, *given)
            model = eomt.load(form, "cpu")
            results = []
            for name in asked:
                kinds = {"boxes": boxes[name]} if file == "boxes.csv" else {
                    "points": clicks[name], "point_labels": signs[name]
                }  # fmt: skip
                named = None if labels is None else [labels] * len(asked[name])
                results.append(model.predict(tmp_path / name, labels=named, **kinds))
            assert_same_rows(rows(folder), rows_of(results))
            found = document(folder)
            assert [image["file_name"] for image in found["images"]] == names
            assert sorted({a["image_id"] for a in found["annotations"]}) <= [names.index(name) + 1 for name in asked]
            documents.append(found)
            expected = coco_document(results)
            for one, other in zip(found["annotations"], expected["annotations"], strict=True):
                assert one["segmentation"] == other["segmentation"]
                assert one["score"] == pytest.approx(other["score"], abs=1e-5)
            masks = [np.array(Image.open(folder / "masks" / name)) for name in names]
            assert set(np.unique(np.stack(masks))) <= ({0, 2} if labels else {0, 1, 2})
            assert not masks[2 if labels else 1].any()
        assert_same_documents(documents[1], documents[0])
        assert_same_documents(documents[2], documents[0])


def test_classes_without_prompts(trained: Any, tmp_path: Path) -> None:
    workspace, run = trained("prompted_free")
    files = sorted((workspace.folder / "strips" / "train_images").iterdir())[:4]
    given = json.dumps([str(file) for file in files])
    documents = []
    for form in forms(run):
        folder = predicted(workspace, run, form, "--data.predict_path", given)
        results = eomt.load(form, "cpu").predict([*files])
        documents.append(document(folder))
        assert_same_documents(documents[-1], coco_document(results))
    assert_same_documents(documents[1], documents[0])
    assert_same_documents(documents[2], documents[0])


def test_classes_of_images(trained: Any, tmp_path: Path) -> None:
    workspace, run = trained("images")
    files = [write_photo(tmp_path / f"{number}.png", "red", 70 + number, (20, 30 + number)) for number in range(3)]
    # the classes are known without the data
    shutil.rmtree(workspace.folder / "photos")
    found = []
    for form in forms(run):
        folder = predicted(workspace, run, form, "--data.predict_path", str(tmp_path))
        results = eomt.load(form, "cpu").predict([*files])
        assert_same_rows(rows(folder), rows_of(results))
        assert {name for name, _ in results[0].ranked()} == {"blue", "green", "red"}
        found.append(np.stack([result.probabilities for result in results]))
    assert len(found) == 3
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)


def test_faces(trained: Any, tmp_path: Path) -> None:
    workspace, run = trained("morph")
    files = [write_face(tmp_path / f"{number}.png", 70 + number, (40, 50)) for number in range(3)]
    found = []
    for form in forms(run):
        folder = predicted(workspace, run, form, "--data.predict_path", str(tmp_path))
        assert_same_rows(rows(folder), rows_of(eomt.load(form, "cpu").predict([*files])))
        assert not (folder / "predictions.json").exists()
        found.append([float(row["score"]) for row in rows(folder)])
    assert len(found) == 3
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(found[0], abs=1e-5)


def test_reconstructions(trained: Any, tmp_path: Path) -> None:
    workspace, run = trained("pretraining")
    files = [write_face(tmp_path / f"{number}.png", 70 + number, (40, 50)) for number in range(2)]
    folder = predicted(workspace, run, forms(run)[0], "--data.predict_path", str(tmp_path))
    results = eomt.load(forms(run)[0], "cpu").predict([*files])
    assert_same_rows(rows(folder), rows_of(results))
    assert len(np.unique(results[0].reconstruction)) > 2


@pytest.mark.parametrize("head", ["generative", "classification"])
def test_answers(trained: Any, tmp_path: Path, head: str) -> None:
    workspace, run = trained(head)
    files = [write_face(tmp_path / f"{number}.png", 70 + number) for number in range(3)]
    for form in forms(run):
        asked = ("--data.predict_path", str(tmp_path), "--data.predict_question", QUESTION)
        folder = predicted(workspace, run, form, *asked)
        results = eomt.load(form, "cpu").predict([*files], QUESTION)
        answers = [(row["name"], Path(row["file"]).name, row["question"], row["answer"]) for row in rows(folder)]
        assert answers == [(one.name, one.name, QUESTION, one.answer) for one in results]
        official = json.loads((folder / "vqav2.json").read_text())
        assert official == [{"question_id": one.name, "answer": one.answer} for one in results]
