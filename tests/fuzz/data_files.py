"""Files of data sets, and what reads them."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from callbacks.results.prediction_record import DoneImages, PredictionRecord
from datamodules.common.conversion import Conversion, ConvertedImage
from datamodules.common.pairs import Pair, find_image_files
from datamodules.common.reading import (
    check_image,
    has_transparency,
    image_size,
    orientation_of,
    read_header,
    read_image,
    read_mask,
    read_pixels,
)
from datamodules.common.zip_members import ZipMember, member_names
from datamodules.defects.layouts import KaggleLayout
from datamodules.defects.run_length import decode_runs
from datamodules.defects.supervisely import read_objects, read_titles
from datamodules.faces.boxes import face_window, with_boxes
from datamodules.faces.folders import Face
from datamodules.objects.coco_instances import CocoInstances
from datamodules.objects.hugging_face import HuggingFaceSegmentation
from datamodules.objects.labelme_files import read_labelme, read_labels
from datamodules.objects.prompt_files import match_prompts, read_prompts
from datamodules.objects.voc_files import read_voc
from datamodules.objects.yolo_files import read_yolo
from datamodules.questions.answer_weights import weigh_answers
from datamodules.questions.images import ImageFinder
from datamodules.questions.rows import read_questions
from datamodules.questions.types import QuestionTypes
from datamodules.questions.vqa_v2 import VQA_TYPES
from datamodules.questions.vqa_v2_files import read_pair
from datamodules.segmentation.panoptic_files import read_class_ids, read_panoptic_split
from eomt.utils.reading import read_text
from tests.datamodules.common.image_files import make_mask
from tests.datamodules.defects.defect_files import HEIGHT as STEEL_HEIGHT
from tests.datamodules.defects.defect_files import WIDTH as STEEL_WIDTH
from tests.datamodules.defects.defect_files import write_kaggle, write_supervisely
from tests.datamodules.faces.face_files import write_face
from tests.datamodules.objects.coco_data import HEIGHT as INSTANCES_HEIGHT
from tests.datamodules.objects.coco_data import WIDTH as INSTANCES_WIDTH
from tests.datamodules.objects.coco_data import write_coco as write_instances
from tests.datamodules.objects.drawn_exports import EXPORTS
from tests.datamodules.objects.test_coco_panoptic import write_coco
from tests.datamodules.objects.test_labelme import shape, write_labelme
from tests.datamodules.objects.test_tables import mask_of, write_table
from tests.datamodules.objects.test_voc import write_voc
from tests.datamodules.objects.test_yolo import write_yolo
from tests.datamodules.questions.question_files import write_csv
from tests.datamodules.questions.question_files import write_pair as write_question_pair

STEEL_SIZE = (STEEL_HEIGHT, STEEL_WIDTH)


# ------------------------------------------------------------------------------------------ images


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


# ------------------------------------------------------------------------------------------ data sets' files


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
        sample.annotation.objects(STEEL_SIZE, 1)


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


def label_table(folder: Path) -> Path:
    for number in range(3):
        write_face(folder / f"{number}.png", number)
    rows = "0.png, a|b, train\n1.png, b, train\n2.png, a, val\n"
    (folder / "labels.csv").write_text("path, label, split\n" + rows)
    return folder / "labels.csv"


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


def instances_file(folder: Path) -> Path:
    write_instances(folder, "train2017", train=4)
    return folder / "annotations" / "instances_train2017.json"


def read_instances(file: Path) -> None:
    images = CocoInstances(file.parent.parent).find_splits()["all"]
    for image in images:
        image.annotation.objects((INSTANCES_HEIGHT, INSTANCES_WIDTH), 1)


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


def yolo_description(folder: Path) -> Path:
    # deep inside, for a changed path may lead to the folders above
    return write_yolo(folder / "a" / "b" / "c") / "data.yaml"


def yolo_labels(folder: Path) -> Path:
    return write_yolo(folder) / "labels" / "a.txt"


def read_yolo_file(file: Path) -> None:
    folder = file.parent if file.name == "data.yaml" else file.parent.parent
    for images in read_yolo(folder).splits.values():
        for image in images:
            image.annotation.objects((8, 12), 1)


def voc_file(place: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_voc(folder)
        (folder / "labelmap.txt").write_text("background:0,0,0::\ncell:128,0,0::\ncrack:192,128,128::\n")
        return folder / place

    return write


def read_voc_file(file: Path) -> None:
    (root,) = [parent for parent in file.parents if (parent / "JPEGImages").is_dir()]
    _, splits = read_voc(root, None)
    for images in splits.values():
        for image in images:
            image.annotation.objects((8, 12), 1)


def labelme_file(folder: Path) -> Path:
    circle = shape("crack", [[4.0, 4.0], [6.0, 4.0]], shape_type="circle")
    write_labelme(folder, shape(), circle, shape(points=[[0, 0], [3, 3]], shape_type="rectangle", group_id=3))
    return folder / "a.json"


def read_labelme_file(file: Path) -> None:
    (labels,) = read_labels(file.parent, [file.name])
    for image in read_labelme(file.parent, [file.name], [labels], sorted(labels)):
        image.annotation.objects((8, 12), 1)


def parquet_file(folder: Path) -> Path:
    write_table(folder / "rows.parquet", [mask_of(0, 1), mask_of(1, 2)])
    return folder / "rows.parquet"


def arrow_file(folder: Path) -> Path:
    shutil.copytree(EXPORTS / "datasets" / "arrow" / "train", folder / "train")
    return folder / "train" / "data-00000-of-00001.arrow"


def read_table_file(file: Path) -> None:
    folder = file if file.suffix == ".parquet" else file.parent
    for images in HuggingFaceSegmentation(folder, class_names=["a", "b"]).find_splits().values():
        for image in images:
            image.annotation.objects(image_size(image.image), 1)


def banded_tiff(folder: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 4096, (12, 16, 5), dtype=np.uint16)
    tifffile.imwrite(folder / "a.tif", values, photometric="minisblack", planarconfig="contig", compression="deflate")
    return folder / "a.tif"


def read_banded_tiff(file: Path) -> None:
    conversion = Conversion.of_fields("p1-p99", [4, 1, 0], None)
    assert conversion is not None
    read_pixels(ConvertedImage(file, conversion))


# ------------------------------------------------------------------------------------------ predictions


def prompt_table(folder: Path) -> Path:
    write_face(folder / "a.png", 1)
    file = folder / "prompts.csv"
    file.write_text("file,x,y,point_label,object,label\na.png,1,2,1,left,pit\na.png,3.5,4,0,left,pit\n")
    return file


def prompt_list(folder: Path) -> Path:
    write_face(folder / "a.png", 1)
    (folder / "prompts.json").write_text(json.dumps([{"file": "a.png", "x0": 1, "y0": 2, "x1": 5, "y1": "6"}]))
    return folder / "prompts.json"


def prompt_document(folder: Path) -> Path:
    write_face(folder / "a.png", 1)
    document = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "pit"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3.5, 4]}],
    }
    (folder / "prompts.json").write_text(json.dumps(document))
    return folder / "prompts.json"


def read_given_prompts(file: Path) -> None:
    match_prompts(file, read_prompts(file, ["pit", "line"]), {"a.png": file.parent / "a.png"})


def prediction_record(folder: Path) -> Path:
    PredictionRecord("digest", "base", {"model.test_flip": False, "data.path": None}, ["a", "b"]).write(folder)
    return folder / "record.json"


def done_images(folder: Path) -> Path:
    done = DoneImages(folder)
    for name in ("a.png", "b.png"):
        row = {"file": name, "class": "a", "pixels": 4, "share": 1.0}
        lengths = {"size": [2, 2], "counts": "04"}
        found = {"category": "a", "segmentation": lengths, "area": 4, "bbox": [0.0, 0.0, 2.0, 2.0], "iscrowd": 0}
        line = {"name": name, "state": "1 2", "size": [2, 2], "rows": [row], "annotations": [found], "categories": []}
        done.add(line, rank=0)
    done.close()
    done.read()
    done.join({})
    return folder / "done.jsonl"


def read_done_images(file: Path) -> None:
    done = DoneImages(file.parent)
    done.read()
    done.join({})
