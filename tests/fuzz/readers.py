"""Every reader of files that others may have made: a valid file, how it is changed, and what reads it."""

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from datamodules.common.pairs import Pair, find_image_files
from datamodules.common.reading import check_image, has_transparency, orientation_of, read_header, read_image, read_mask
from datamodules.common.splits import read_split_record
from datamodules.common.zip_members import ZipMember, member_names
from datamodules.defects.layouts import KaggleLayout
from datamodules.defects.run_length import decode_runs
from datamodules.defects.supervisely import read_objects, read_titles
from datamodules.faces.boxes import face_window, with_boxes
from datamodules.faces.folders import Face
from datamodules.faces.table import read_face_table
from datamodules.questions.answer_weights import read_answer_weights, weigh_answers
from datamodules.questions.images import ImageFinder
from datamodules.questions.rows import read_questions
from datamodules.questions.types import QuestionTypes
from datamodules.questions.vqa_v2 import VQA_TYPES
from datamodules.questions.vqa_v2_files import read_pair
from datamodules.segmentation.panoptic_files import read_class_ids, read_panoptic_split
from eomt.app.config import read_yaml
from eomt.app.names import load as load_yaml
from eomt.app.runs import load_checkpoint, step_of
from eomt.app.trust import with_saved_config
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.files import fill, load_adapter, save_adapter
from eomt.models.weights.colors import read_colors
from eomt.models.weights.eomt.settings import Settings, metadata_of, read_own_settings, read_settings
from eomt.models.weights.files import read_weights
from eomt.models.weights.mae import read_mae
from eomt.models.weights.sam2.config import read_sam2_config
from eomt.models.weights.transformers import read_model_config
from eomt.models.weights.vqa import read_vqa_layout
from eomt.report import report
from eomt.utils.reading import read_text
from eomt.utils.tokenizer import load_tokenizer
from tests.datamodules.common.image_files import make_mask
from tests.datamodules.defects.defect_files import HEIGHT as STEEL_HEIGHT
from tests.datamodules.defects.defect_files import WIDTH as STEEL_WIDTH
from tests.datamodules.defects.defect_files import write_kaggle, write_supervisely
from tests.datamodules.faces.face_files import write_face
from tests.datamodules.questions.question_files import write_csv
from tests.datamodules.questions.question_files import write_pair as write_question_pair
from tests.datamodules.segmentation.test_panoptic import write_coco
from tests.fuzz.mutations import mutated_bytes, mutated_json, mutated_safetensors, mutated_text, mutated_zip
from tests.tiny_sam2 import tiny_config
from tests.tiny_vqa import BART, make_tokenizer

RUNS = Path(__file__).parents[1] / "old_runs"
# a run's, cut: PyYAML is slow
SAVED = """
seed_everything: 1
model:
  class_path: eomt.tasks.SemanticSegmentation
  init_args:
    network: {class_path: eomt.models.EoMT, init_args: {num_q: 4, encoder: {class_path: eomt.models.ViT}}}
    lora_config: {class_path: eomt.models.lora_integration.LoRAConfig, init_args: {rank: 4}}
data: {class_path: datamodules.ImageMaskFolder, init_args: {path: a, ignore_labels: [255]}}
trainer:
  max_steps: 4
  logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: x}}
  callbacks: [{class_path: callbacks.LoRACheckpoint}, callbacks.MergeOnSave]
"""
STEEL_SIZE = (STEEL_HEIGHT, STEEL_WIDTH)
COLORS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        write: Fills a folder, and returns the file that is changed.
        mutated: Draws what takes the place of the file's bytes.
        read: Reads the folder, or the file.
    """

    write: Callable[[Path], Path]
    mutated: Callable[[bytes], st.SearchStrategy[bytes]]
    read: Callable[[Path], Any]


def text_of(valid: bytes) -> st.SearchStrategy[bytes]:
    return mutated_text(valid.decode())


def json_of(valid: bytes) -> st.SearchStrategy[bytes]:
    return mutated_json(json.loads(valid))


# ---------------------------------------------------------------------------------------------------------- images


def image_writer(name: str, **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[274] = 6
        Image.fromarray(pixels).save(folder / name, exif=exif, **options)
        return folder / name

    return write


def read_whole_image(file: Path) -> None:
    check_image(file)
    read_header(file)
    orientation_of(file)
    has_transparency(file)
    read_image(file)
    find_image_files(file.parent)


def write_mask(folder: Path) -> Path:
    image = Image.fromarray(make_mask())
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(folder / "mask.png")
    return folder / "mask.png"


def read_both_masks(file: Path) -> None:
    read_mask(file)
    read_mask(file, [(0, 0, 0), (255, 0, 0), (0, 255, 0)], file)


def write_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as written:
        content = io.BytesIO()
        Image.fromarray(make_mask()).save(content, "PNG")
        written.writestr("images/a.png", content.getvalue())
    return folder / "images.zip"


def read_members(file: Path) -> None:
    for name in member_names(file):
        read_mask(ZipMember(file, name))


# ------------------------------------------------------------------------------------------------- data sets' files


def write_runs(folder: Path) -> Path:
    (folder / "runs.txt").write_text("1 3 20 5 60 2 100 30 101 4")
    return folder / "runs.txt"


def read_runs(file: Path) -> None:
    decode_runs(read_text(file, "x"), STEEL_SIZE, str(file))


def kaggle_table(folder: Path) -> Path:
    write_kaggle(folder, 3)
    return folder / "train.csv"


def read_kaggle(file: Path) -> None:
    for sample in KaggleLayout(file.parent).samples(["a", "b", "c", "d"]):
        sample.annotation.masks(STEEL_SIZE, 1)


def supervisely_file(folder: Path) -> Path:
    write_supervisely(folder, range(1))
    return folder / "ann" / "0.png.json"


def read_supervisely(file: Path) -> None:
    read_titles(file)
    read_objects(file, STEEL_SIZE)


def face_table(folder: Path) -> Path:
    for number in range(3):
        write_face(folder / f"{number}.png", number)
    rows = "0.png, bonafide, , anna, , train\n1.png, attack, opencv, anna, berta, train\n2.png, 0, , carl, , val\n"
    (folder / "faces.csv").write_text("path, label, attack, subject_a, subject_b, split\n" + rows)
    return folder / "faces.csv"


def box_file(folder: Path) -> Path:
    (folder / "boxes.txt").write_text("./a.png 30 54 10.5 34 1 2 3 4\nb/c.png 1 20 3 44\n")
    return folder / "boxes.txt"


def read_box_file(file: Path) -> None:
    faces = [Face(name, file.parent / name, 0) for name in ("a.png", "b/c.png")]
    for face in with_boxes(faces, file.parent, [file.name]):
        face_window((64, 64), face.box, (16, 16))


def panoptic_file(folder: Path) -> Path:
    write_coco(folder)
    return folder / "annotations" / "panoptic_train2017.json"


def read_panoptic(file: Path) -> None:
    split = read_panoptic_split(file)
    for pair, segments in zip(split.pairs, split.segments, strict=True):
        read_class_ids(pair, segments, split.source)


def read_panoptic_mask(file: Path) -> None:
    segments = np.array([[5, 0], [300, 1], [70000, 1], [16777215, 2]])
    read_class_ids(Pair("a", file, file), segments, file)


def panoptic_mask(folder: Path) -> Path:
    panoptic_file(folder)
    return folder / "annotations" / "panoptic_train2017" / "000000000000.png"


def split_record(folder: Path) -> Path:
    (folder / "splits.json").write_text(json.dumps({"train": ["a.png", "b.png"], "val": ["c.png"], "test": []}))
    return folder / "splits.json"


def question_table(folder: Path) -> Path:
    for number in range(2):
        write_face(folder / f"{number}.jpg", number)
    rows = [["what colour ?", "red", '["red", "dark red"]', 0, 2], ["is it ?", "yes", '["yes"]', 1, 0]]
    return write_csv(folder / "train.csv", rows, ["question", "answer", "answers", "img_id", "type"])


def read_question_table(file: Path) -> None:
    types = QuestionTypes(["object", "count", "colour", "location"], "en")
    read_questions(file, ImageFinder(file.parent), types)
    read_questions(file, ImageFinder(file.parent), None, answered=False, on_missing="skip")


def question_file(kind: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_question_pair(folder, "val", range(2))
        return folder / f"val_{kind}.json"

    return write


def read_question_pair(file: Path) -> None:
    files = [file.parent / f"val_{kind}.json" for kind in ("questions", "annotations")]
    read_pair(*files, ImageFinder(file.parent / "val"), VQA_TYPES, "error")


def answer_weights(folder: Path) -> Path:
    text = weigh_answers({"red": 3, "blue": 1}, "inverse", 0.9, 10, 1).to_json()
    (folder / "answer_weights.json").write_text(text)
    return folder / "answer_weights.json"


# ----------------------------------------------------------------------------------------------------- adapters


class Network(nn.Module):
    """Two layers to adapt and one to train, so small that a case takes milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.head = nn.Linear(3, 2)


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def adapter_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        config = LoRAConfig(
            rank=2,
            target_modules=["blocks"],
            rank_pattern={"1": 1},
            alpha_pattern={"0": 4},
            trainable_modules=["head"],
            freeze_base_model=True,
        )
        return save_adapter(apply_lora(network(), config), folder / "adapter") / name

    return write


def read_adapter(file: Path) -> None:
    load_adapter(network(), file.parent)


def adapter_metadata(folder: Path) -> Path:
    """Write what stands in the metadata of an adapter's weights into a file of its own, to be changed as JSON."""
    weights = adapter_file("adapter_model.safetensors")(folder)
    with safe_open(weights, "pt") as file:
        found = {
            name: json.loads(text) if name in ("fingerprint", "slices") else text
            for name, text in file.metadata().items()
        }
    (folder / "adapter" / "metadata.txt").write_text(json.dumps(found))
    return folder / "adapter" / "metadata.txt"


def read_adapter_metadata(file: Path) -> None:
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return
    if isinstance(found, dict):
        weights = file.parent / "adapter_model.safetensors"
        texts = {str(name): value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}
        try:
            save_file(load_file(weights), weights, texts)
        except UnicodeEncodeError:
            return
        read_adapter(file)


# ------------------------------------------------------------------------------------------------ weights of models


def own_weights(folder: Path) -> Path:
    settings = Settings(1e-6, (32, 48), COLORS, ["a", "b"])
    save_file({"q.weight": torch.ones(2, 3)}, folder / "model.safetensors", metadata_of(settings))
    return folder / "model.safetensors"


def read_own_weights(file: Path) -> None:
    read_own_settings(file)
    read_weights(file)


def torch_weights(new: bool) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        content = {"model": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}, "epoch": 3, "lr": [0.1]}
        torch.save(content, folder / "weights.pth", _use_new_zipfile_serialization=new)
        return folder / "weights.pth"

    return write


def weight_index(folder: Path) -> Path:
    save_file({"a": torch.ones(1)}, folder / "model-1.safetensors")
    save_file({"b": torch.ones(1)}, folder / "model-2.safetensors")
    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors.index.json"


def eomt_config(folder: Path) -> Path:
    fields = {"model_type": "eomt", "image_size": 640, "id2label": {"0": "a", "1": "b"}, "layer_norm_eps": 1e-6}
    fields |= {
        "num_blocks": 4,
        "rope_parameters": {"rope_theta": 100.0},
        "num_attention_heads": 2,
        "hidden_act": "gelu",
    }
    (folder / "config.json").write_text(json.dumps(fields))
    return folder / "config.json"


def processor_config(folder: Path) -> Path:
    fields = {"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2], "size": {"height": 3}}
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    return folder / "preprocessor_config.json"


def mae_config(folder: Path) -> Path:
    fields = {"model_type": "vit_mae", "hidden_size": 32, "num_hidden_layers": 2, "patch_size": 8}
    (folder / "config.json").write_text(json.dumps(fields))
    save_file({"vit.layers.0.mlp.fc1.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    return folder / "config.json"


def sam2_config(folder: Path) -> Path:
    tiny_config().save_pretrained(folder)
    return folder / "config.json"


def vqa_config(folder: Path) -> Path:
    fields = {
        "format": "eomt.models.DeterministicVQA",
        "answer_head": "generative",
        "answers": ["red", "blue"],
        "question_types": None,
        "img_size": [28, 28],
        "fusion_layers": 2,
        "colours": COLORS,
        "vision_config": {"model_type": "dinov2", "hidden_size": 32},
        "text_config": BART,
    }
    (folder / "config.json").write_text(json.dumps(fields))
    return folder / "config.json"


def read_vqa_config(file: Path) -> None:
    found = read_vqa_layout(str(file.parent))
    read_model_config(found.vision_config, "vision_model")
    read_model_config(found.text_config, "text_model")


def bart_config(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(BART))
    return folder / "config.json"


def tokenizer_file(folder: Path) -> Path:
    return make_tokenizer(folder / "tokenizer") / "tokenizer.json"


# -------------------------------------------------------------------------------------------------------------- runs


class Task(nn.Module):
    """What a checkpoint is read into."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A task of ours looks at its record here."""

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As that of our tasks."""
        fill(self, state_dict, "ckpt_path")


def checkpoint(folder: Path) -> Path:
    content = {"global_step": 7, "epoch": 1, "state_dict": Task().state_dict(), "loops": {"fit": [1, 2, {"a": 0.5}]}}
    torch.save(content, folder / "latest_lora_step7.ckpt")
    return folder / "latest_lora_step7.ckpt"


def read_checkpoint(file: Path) -> None:
    step_of(file)
    load_checkpoint(Task(), file)  # type: ignore[arg-type]


def saved_config(folder: Path) -> Path:
    (folder / "config.yaml").write_text(SAVED)
    (folder / "model.safetensors").touch()
    return folder / "config.yaml"


def config_values(folder: Path) -> Path:
    """Write the same as JSON, which is YAML, to be changed by its values."""
    file = saved_config(folder)
    file.write_text(json.dumps(yaml.safe_load(file.read_text())))
    return file


def read_saved_config(file: Path) -> None:
    with_saved_config(["predict", "--ckpt_path", str(file.parent)])


def small_yaml(folder: Path) -> Path:
    text = "a: &x {b: [1, no, on, 0x1F], c: 2001-01-01}\nd: *x\ne:\n  <<: *x\n  f: ~\n- g\n"
    (folder / "a.yaml").write_text(text.removesuffix("- g\n"))
    return folder / "a.yaml"


def read_both_yamls(file: Path) -> None:
    text = read_text(file, "x")
    # which jsonargparse expects
    with contextlib.suppress(yaml.YAMLError):
        load_yaml(text)
    read_yaml(file)


def summary_file(folder: Path) -> Path:
    text = (RUNS / "eomt" / "training_summary.json").read_text()
    (folder / "training_summary.json").write_text(text)
    return folder / "training_summary.json"


def results_file(folder: Path) -> Path:
    summary_file(folder)
    (folder / "results").mkdir(exist_ok=True)
    content = {"task": "x", "weights": "a.ckpt", "metrics": {"test_iou": 0.5, "test_x": None}, "notes": ["a"]}
    (folder / "results" / "1_eval.json").write_text(json.dumps(content))
    return folder / "results" / "1_eval.json"


def beside(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Return what reads the folder of a file."""
    return lambda file: read(file.parent)


READERS: dict[str, Reader] = {
    "png": Reader(image_writer("a.png"), mutated_bytes, read_whole_image),
    "jpeg": Reader(image_writer("a.jpg"), mutated_bytes, read_whole_image),
    "tiff": Reader(image_writer("a.tif"), mutated_bytes, read_whole_image),
    "webp": Reader(image_writer("a.webp"), mutated_bytes, read_whole_image),
    "gif": Reader(image_writer("a.gif"), mutated_bytes, read_whole_image),
    "bmp": Reader(image_writer("a.bmp"), mutated_bytes, read_whole_image),
    "mask": Reader(write_mask, mutated_bytes, read_both_masks),
    "zip of masks": Reader(write_zip, mutated_zip, read_members),
    "runs": Reader(write_runs, text_of, read_runs),
    "severstal csv": Reader(kaggle_table, text_of, read_kaggle),
    "supervisely json": Reader(supervisely_file, json_of, read_supervisely),
    "face csv": Reader(face_table, text_of, lambda file: read_face_table(file, r"id\d+")),
    "face boxes": Reader(box_file, text_of, read_box_file),
    "panoptic json": Reader(panoptic_file, json_of, read_panoptic),
    "panoptic png": Reader(panoptic_mask, mutated_bytes, read_panoptic_mask),
    "split record": Reader(split_record, json_of, lambda file: read_split_record(file, ["a.png", "b.png", "c.png"])),
    "question csv": Reader(question_table, text_of, read_question_table),
    "question json": Reader(question_file("questions"), json_of, read_question_pair),
    "answer json": Reader(question_file("annotations"), json_of, read_question_pair),
    "answer weights": Reader(answer_weights, json_of, lambda file: read_answer_weights(file, ["red", "blue"], "x")),
    "adapter config": Reader(adapter_file("adapter_config.json"), json_of, read_adapter),
    "adapter metadata": Reader(adapter_metadata, json_of, read_adapter_metadata),
    "adapter weights": Reader(adapter_file("adapter_model.safetensors"), mutated_safetensors, read_adapter),
    "safetensors": Reader(own_weights, mutated_safetensors, read_own_weights),
    "pth": Reader(torch_weights(new=True), mutated_zip, read_weights),
    "old pth": Reader(torch_weights(new=False), mutated_bytes, read_weights),
    "weight index": Reader(weight_index, json_of, beside(read_weights)),
    "eomt config": Reader(eomt_config, json_of, lambda file: read_settings(file.parent, COLORS)),
    "image processor": Reader(processor_config, json_of, lambda file: read_colors(str(file.parent), COLORS)),
    "mae config": Reader(mae_config, json_of, lambda file: read_mae(str(file.parent)).fields()),
    "sam2 config": Reader(sam2_config, json_of, beside(read_sam2_config)),
    "vqa config": Reader(vqa_config, json_of, read_vqa_config),
    "text model config": Reader(bart_config, json_of, lambda file: read_model_config(str(file.parent), "text_model")),
    "tokenizer": Reader(tokenizer_file, json_of, lambda file: load_tokenizer(str(file.parent))),
    "ckpt": Reader(checkpoint, mutated_zip, read_checkpoint),
    "saved config": Reader(saved_config, text_of, read_saved_config),
    "saved config's values": Reader(config_values, json_of, read_saved_config),
    "yaml": Reader(small_yaml, text_of, read_both_yamls),
    "run summary": Reader(summary_file, json_of, beside(report)),
    "run results": Reader(results_file, json_of, lambda file: report(file.parents[1])),
}
