"""A folder of someone else is opened without harm: what is damaged, forged or missing is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from onnx import TensorProto
from PIL import Image

import eomt
from eomt.errors import UserError
from eomt.export.examples import EXAMPLES
from eomt.export.opened_values import OPENED, example_with
from eomt.export.options import is_export_folder
from eomt.export.record import ImagesRecord
from eomt.predictors.inputs import read
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


def test_stored_values_are_read_as_the_folder_says(tmp_path: Path) -> None:
    predictor = eomt.load(write(tmp_path, images={"intensity": [0, 4080], "channels": [1], "page": None}))
    values = np.zeros((8, 8, 2), np.uint16)
    values[..., 1] = 1600
    assert (predictor.predict(values).image == 100).all()
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    assert predictor.predict(tmp_path / "a.tif").score == predictor.predict(values).score
    with pytest.raises(UserError, match=r"has 1 band, but channels is \[1, 1, 1\]"):
        predictor.predict(values[..., 0])


@pytest.mark.parametrize(
    "images",
    [{"intensity": [0]}, {"channels": [-1]}, {"channels": [0, 1]}, {"page": -1}, {"gamma": 2}, {"intensity": "bright"}],
)
def test_a_forged_rule_is_refused(tmp_path: Path, images: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"{next(iter(images))}"):
        eomt.load(write(tmp_path, images=images))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("intensity", "channels"), [([100, 4000], None), ("p2-p98", [2, 1, 0]), ([0, 3000], [1]), (None, None)]
)
def test_the_example_beside_graphs_reads_values_as_the_predictor_does(
    tmp_path: Path, suffix: str, intensity: Any, channels: Any
) -> None:
    random = np.random.default_rng(0)
    count, dtype, top = (3, np.uint16, 4096) if intensity is not None else (3, np.uint8, 256)
    values = random.integers(0, top, (9, 8, count), dtype=dtype)
    if suffix == "png":
        values = values[..., 0] if intensity is not None else values
        channels = None if intensity is not None else channels
        Image.fromarray(values).save(tmp_path / "a.png")
    else:
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb" if dtype == np.uint8 else "minisblack",
                         planarconfig="contig")  # fmt: skip
    fields = {"intensity": intensity, "channels": channels, "page": 0}
    of_example: dict[str, Any] = {"record": {"images": fields}}
    exec(
        "import sys\nfrom pathlib import Path\nimport numpy as np\nfrom PIL import Image, ImageOps" + OPENED, of_example
    )
    found = np.asarray(of_example["opened"](str(tmp_path / f"a.{suffix}")))
    rule = ImagesRecord(**fields).conversion
    np.testing.assert_array_equal(found, read(tmp_path / f"a.{suffix}", rule).array)


def test_every_example_of_rgb_reads_by_the_rule() -> None:
    for task, example in EXAMPLES.items():
        assert example_with(example, ImagesRecord()) == example
        changed = example_with(example, ImagesRecord(intensity=[0, 4095]))
        if task != "masked_autoencoding":
            assert changed is not None
            assert "opened(sys.argv[1])" in changed
            assert 'convert("RGB")\nscale' not in changed
            compile(changed, task, "exec")
        assert example_with(example, ImagesRecord(channels=[0, 1, 2, 3])) is None
