"""Every reader of files that others may have made: a valid file, how it is changed, and what reads it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from callbacks.results.prediction_record import read_record as read_prediction_record
from datamodules.classification.table import read_label_table
from datamodules.common.splits import read_split_record
from datamodules.faces.table import read_face_table
from datamodules.questions.answer_weights import read_answer_weights
from eomt.errors import UserError
from eomt.models.weights.colors import read_colors
from eomt.models.weights.eomt.settings import read_settings
from eomt.models.weights.files import read_weights
from eomt.models.weights.mae import read_mae
from eomt.models.weights.sam2.config import read_sam2_config
from eomt.models.weights.transformers import read_model_config
from eomt.reports.closing_table import report
from eomt.utils.tokenizer import load_tokenizer
from tests.export.crafted import read_exported, read_forged, write_graph, write_record
from tests.fuzz.audited_files import (
    audited_folder,
    base_config,
    read_audited,
    read_base_config,
    read_record,
    read_state,
    record_file,
    safe_state,
    whole_state,
)
from tests.fuzz.data_files import (
    answer_weights,
    arrow_file,
    banded_tiff,
    box_file,
    done_images,
    face_table,
    image_writer,
    instances_file,
    kaggle_table,
    label_table,
    labelme_file,
    panoptic_file,
    panoptic_mask,
    parquet_file,
    prediction_record,
    prompt_document,
    prompt_list,
    prompt_table,
    question_file,
    question_table,
    read_banded_tiff,
    read_both_masks,
    read_box_file,
    read_done_images,
    read_given_prompts,
    read_instances,
    read_kaggle,
    read_labelme_file,
    read_members,
    read_panoptic,
    read_panoptic_mask,
    read_question_pair,
    read_question_table,
    read_runs,
    read_supervisely,
    read_table_file,
    read_voc_file,
    read_whole_image,
    read_yolo_file,
    split_record,
    supervisely_file,
    voc_file,
    write_mask,
    write_runs,
    write_zip,
    yolo_description,
    yolo_labels,
)
from tests.fuzz.model_files import (
    COLORS,
    adapter_file,
    adapter_metadata,
    bart_config,
    beside,
    checkpoint,
    config_values,
    eomt_config,
    mae_config,
    own_weights,
    processor_config,
    read_adapter,
    read_adapter_metadata,
    read_both_yamls,
    read_checkpoint,
    read_own_weights,
    read_saved_config,
    read_vqa_config,
    results_file,
    sam2_config,
    saved_config,
    small_yaml,
    summary_file,
    tokenizer_file,
    torch_weights,
    vqa_config,
    weight_index,
)
from tests.fuzz.mutations import mutated_bytes, mutated_json, mutated_safetensors, mutated_text, mutated_zip
from tests.fuzz.object_files import (
    conversion_file,
    deep_image,
    label_name_file,
    read_conversion,
    read_datasets,
    read_deep_image,
    read_label_names,
    read_yolo_names,
    table_of_datasets,
    yolo_list,
    yolo_names,
)
from tests.fuzz.report_files import render, reported_file


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


def shown_json_of(valid: bytes) -> st.SearchStrategy[bytes]:
    """As `json_of`, for what is not refused: a page says what is damaged, and has all else."""
    return json_of(valid)


def read_record_or_refuse(file: Path) -> None:
    """Reads the record of predictions; one that is none is passed over, and its folder kept under another name."""
    if read_prediction_record(file.parent) is None:
        raise UserError("record.json: is none")


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
    "label csv": Reader(label_table, text_of, lambda file: read_label_table(file, "|")),
    "face csv": Reader(face_table, text_of, lambda file: read_face_table(file, r"id\d+")),
    "face boxes": Reader(box_file, text_of, read_box_file),
    "export json": Reader(write_record, json_of, read_exported),
    "onnx": Reader(write_graph, mutated_bytes, read_forged),
    "instances json": Reader(instances_file, json_of, read_instances),
    "panoptic json": Reader(panoptic_file, json_of, read_panoptic),
    "panoptic png": Reader(panoptic_mask, mutated_bytes, read_panoptic_mask),
    "yolo yaml": Reader(yolo_description, text_of, read_yolo_file),
    "yolo labels": Reader(yolo_labels, text_of, read_yolo_file),
    "voc labelmap": Reader(voc_file("labelmap.txt"), text_of, read_voc_file),
    "voc list": Reader(voc_file("ImageSets/Segmentation/train.txt"), text_of, read_voc_file),
    "voc png": Reader(voc_file("SegmentationObject/2007_000001.png"), mutated_bytes, read_voc_file),
    "labelme json": Reader(labelme_file, json_of, read_labelme_file),
    "parquet": Reader(parquet_file, mutated_bytes, read_table_file),
    "arrow": Reader(arrow_file, mutated_bytes, read_table_file),
    "tiff of bands": Reader(banded_tiff, mutated_bytes, read_banded_tiff),
    "table splits": Reader(table_of_datasets("dataset_dict.json"), json_of, read_datasets),
    "table state": Reader(table_of_datasets("train/state.json"), json_of, read_datasets),
    "table labels": Reader(label_name_file, json_of, read_label_names),
    "yolo names": Reader(yolo_names, text_of, read_yolo_names),
    "yolo list": Reader(yolo_list, text_of, lambda file: read_yolo_names(file.parent / "data.yaml")),
    "gray png of 16 bits": Reader(deep_image("gray.png"), mutated_bytes, read_deep_image),
    "png of 16 bits": Reader(deep_image("a.png"), mutated_bytes, read_deep_image),
    "tiff of pages": Reader(deep_image("a.tif"), mutated_bytes, read_deep_image),
    "values of images": Reader(conversion_file, json_of, read_conversion),
    "split record": Reader(split_record, json_of, lambda file: read_split_record(file, ["a.png", "b.png", "c.png"])),
    "question csv": Reader(question_table, text_of, read_question_table),
    "question json": Reader(question_file("questions"), json_of, read_question_pair),
    "answer json": Reader(question_file("annotations"), json_of, read_question_pair),
    "answer weights": Reader(answer_weights, json_of, lambda file: read_answer_weights(file, ["red", "blue"], "x")),
    "adapter config": Reader(adapter_file("adapter_config.json"), json_of, read_adapter),
    "adapter metadata": Reader(adapter_metadata, json_of, read_adapter_metadata),
    "adapter weights": Reader(adapter_file("adapter_model.safetensors"), mutated_safetensors, read_adapter),
    "audited config": Reader(partial(audited_folder, "adapter_config.json"), json_of, read_audited),
    "audited weights": Reader(partial(audited_folder, "adapter_model.safetensors"), mutated_safetensors, read_audited),
    "audited state": Reader(whole_state, mutated_zip, read_state),
    "audited safetensors": Reader(safe_state, mutated_safetensors, read_state),
    "audited record": Reader(record_file, json_of, read_record),
    "audited base": Reader(base_config, json_of, read_base_config),
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
    "prompt csv": Reader(prompt_table, text_of, read_given_prompts),
    "prompt list": Reader(prompt_list, json_of, read_given_prompts),
    "prompt coco": Reader(prompt_document, json_of, read_given_prompts),
    "prediction record": Reader(prediction_record, json_of, read_record_or_refuse),
    "done images": Reader(done_images, text_of, read_done_images),
    "run summary": Reader(summary_file, json_of, beside(report)),
    "run results": Reader(results_file, json_of, lambda file: report(file.parents[1])),
    "page's summary": Reader(reported_file("training_summary.json"), shown_json_of, render),
    "page's results": Reader(reported_file("_eval.json"), shown_json_of, render),
    "page's examples": Reader(reported_file("_examples/examples.json"), shown_json_of, render),
    "page's curves": Reader(reported_file("metrics.csv"), text_of, render),
    "page's config": Reader(reported_file("config.yaml"), text_of, render),
    "page's classes": Reader(reported_file("_confusion.csv"), text_of, render),
    "page's scores": Reader(reported_file("_scores.csv"), text_of, render),
    "page's answers": Reader(reported_file("_answers.csv"), text_of, render),
    "page's picture": Reader(reported_file("_examples/best_0.jpg"), mutated_bytes, render),
}
