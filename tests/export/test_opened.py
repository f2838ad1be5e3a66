"""A folder of someone else is opened without harm: what is damaged, forged or missing is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

import eomt
from eomt.errors import UserError
from eomt.export.options import is_export_folder
from tests.export.crafted import graph, write

FORGED: list[tuple[str, Any, str]] = [
    ("version", 2, "version"),
    ("surprise", 1, "surprise"),
    ("img_size", [8, 10**9], "img_size"),
    ("img_size", [0, 8], "img_size"),
    ("format", "pickle", "format"),
    ("graphs", [], "graphs"),
    ("settings", {"task": "morph_detection"}, "threshold"),
    ("settings", {"task": "morph_detection", "threshold": "a"}, "threshold"),
    ("settings", {"task": "mining"}, "settings"),
]


def image(value: int = 0) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def test_a_folder_that_is_whole_answers(tmp_path: Path) -> None:
    predictor = eomt.load(write(tmp_path))
    assert predictor.predict(image()).score == pytest.approx(0.5)
    assert predictor.source == str(tmp_path)
    assert is_export_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert not is_export_folder(tmp_path)


@pytest.mark.parametrize(("field", "value", "named"), FORGED, ids=lambda value: str(value)[:30])
def test_a_forged_record_is_refused_by_the_field(tmp_path: Path, field: str, value: Any, named: str) -> None:
    with pytest.raises(UserError, match=named) as refusal:
        eomt.load(write(tmp_path, **{field: value}))
    assert "export.json" in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 1}', "[" * 5000])
def test_a_record_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (write(tmp_path) / "export.json").write_text(text)
    with pytest.raises(UserError, match=r"export\.json"):
        eomt.load(tmp_path)
    assert not is_export_folder(tmp_path)


@pytest.mark.parametrize("file", ["../model.onnx", "/etc/passwd", "a/b.onnx", "..", ".onnx", "model.pkl", "a\\b.onnx"])
def test_a_file_outside_of_the_folder_is_never_opened(tmp_path: Path, file: str) -> None:
    with pytest.raises(UserError, match="must be the plain name of a graph"):
        eomt.load(write(tmp_path, file=file))


def test_another_file_than_the_one_that_was_written_is_refused(tmp_path: Path) -> None:
    content = bytearray(graph())
    folder = write(tmp_path, bytes(content))
    content[-20] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"is not the file that export\.json names"):
        eomt.load(folder)
    (folder / "model.onnx").write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"bytes, and export\.json says"):
        eomt.load(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        eomt.load(folder)


@pytest.mark.parametrize("content", [b"x", b"\x08\x0a" * 50, graph()[:-30]], ids=["text", "noise", "cut"])
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match="onnxruntime cannot open it"):
        eomt.load(write(tmp_path, content))


@pytest.mark.parametrize("place", ["../secret.bin", "secret.bin", "/etc/hostname"])
def test_weights_outside_of_the_graph_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    for near in (tmp_path, folder):
        (near / "secret.bin").write_bytes(np.array([1.0, 2.0], np.float32).tobytes())
    monkeypatch.chdir(folder)
    weight = TensorProto(name="signs", data_type=TensorProto.FLOAT, dims=[1, 2])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=place)
    with pytest.raises(UserError, match="onnxruntime cannot open it"):
        eomt.load(write(folder, graph(weight=weight)))


def test_a_graph_with_other_inputs_than_its_record_says_is_refused(tmp_path: Path) -> None:
    other = [{"name": "pixels", "dtype": "uint8", "shape": ["batch", 3, 8, 8]}]
    with pytest.raises(UserError, match=r"its inputs are not those that export\.json names"):
        eomt.load(write(tmp_path, inputs=other))


def test_a_graph_that_answers_in_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'logits' is \[1, 4\], and export.json says \['batch', 2\]"):
        eomt.load(write(tmp_path, graph(classes=4))).predict(image())


def test_graphs_that_do_not_fit_their_task_are_refused(tmp_path: Path) -> None:
    segmentation = {
        "task": "semantic_segmentation", "class_names": ["a"], "window_batch_size": 1, "temperature": 1.0,
        "views": [{"scale": 1.0, "flip": False, "overlap": 0.0}], "normalize": False, "anomaly": [],
    }  # fmt: skip
    with pytest.raises(UserError, match="do not fit semantic_segmentation"):
        eomt.load(write(tmp_path, settings=segmentation))
    with pytest.raises(UserError, match="do not fit morph_detection"):
        eomt.load(write(tmp_path, name="another"))


def test_it_runs_on_the_cpu(tmp_path: Path) -> None:
    assert eomt.load(write(tmp_path), "cpu").device.type == "cpu"
    with pytest.raises(UserError, match="device: cuda, but exported graphs run on the CPU"):
        eomt.load(tmp_path, "cuda")
