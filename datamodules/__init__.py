"""Data modules: files -> splits -> batches."""

from typing import TYPE_CHECKING

from eomt.utils.lazy import lazily

if TYPE_CHECKING:
    from datamodules.common.data_module import DataModule
    from datamodules.common.image_data_module import ImageDataModule
    from datamodules.defects.severstal import Severstal
    from datamodules.faces.face_folder import FaceFolder
    from datamodules.faces.morph_faces import MorphFaces
    from datamodules.generated.cells.cell_scenes import CellScenes
    from datamodules.generated.faces.data_modules import GeneratedFaces, GeneratedMorphs
    from datamodules.generated.shapes.shape_questions import ShapeQuestions
    from datamodules.generated.steel.steel_strips import SteelStrips
    from datamodules.generated.streets.street_anomalies import StreetAnomalies
    from datamodules.generated.streets.street_scenes import StreetScenes
    from datamodules.objects.coco_instances import CocoInstances
    from datamodules.objects.coco_panoptic import CocoPanoptic
    from datamodules.objects.data_module import ObjectDataModule
    from datamodules.objects.hugging_face import HuggingFaceSegmentation
    from datamodules.objects.label_me import LabelMe
    from datamodules.objects.pascal_voc import PascalVoc
    from datamodules.objects.yolo_segmentation import YoloSegmentation
    from datamodules.questions.vqa_csv import VQACsv
    from datamodules.questions.vqa_v2 import VQAv2
    from datamodules.segmentation.cityscapes import Cityscapes
    from datamodules.segmentation.image_mask_folder import ImageMaskFolder
    from datamodules.segmentation.road_anomaly import RoadAnomaly

__all__ = [
    "CellScenes",
    "Cityscapes",
    "CocoInstances",
    "CocoPanoptic",
    "DataModule",
    "FaceFolder",
    "GeneratedFaces",
    "GeneratedMorphs",
    "HuggingFaceSegmentation",
    "ImageDataModule",
    "ImageMaskFolder",
    "LabelMe",
    "MorphFaces",
    "ObjectDataModule",
    "PascalVoc",
    "RoadAnomaly",
    "Severstal",
    "ShapeQuestions",
    "SteelStrips",
    "StreetAnomalies",
    "StreetScenes",
    "VQACsv",
    "VQAv2",
    "YoloSegmentation",
]

# what runs exported graphs needs small modules beside these, and not the libraries that these load
__getattr__ = lazily(
    __name__,
    {
        "DataModule": "datamodules.common.data_module",
        "ImageDataModule": "datamodules.common.image_data_module",
        "Severstal": "datamodules.defects.severstal",
        "FaceFolder": "datamodules.faces.face_folder",
        "MorphFaces": "datamodules.faces.morph_faces",
        "CellScenes": "datamodules.generated.cells.cell_scenes",
        "GeneratedFaces": "datamodules.generated.faces.data_modules",
        "GeneratedMorphs": "datamodules.generated.faces.data_modules",
        "ShapeQuestions": "datamodules.generated.shapes.shape_questions",
        "SteelStrips": "datamodules.generated.steel.steel_strips",
        "StreetAnomalies": "datamodules.generated.streets.street_anomalies",
        "StreetScenes": "datamodules.generated.streets.street_scenes",
        "CocoInstances": "datamodules.objects.coco_instances",
        "ObjectDataModule": "datamodules.objects.data_module",
        "HuggingFaceSegmentation": "datamodules.objects.hugging_face",
        "LabelMe": "datamodules.objects.label_me",
        "PascalVoc": "datamodules.objects.pascal_voc",
        "YoloSegmentation": "datamodules.objects.yolo_segmentation",
        "VQACsv": "datamodules.questions.vqa_csv",
        "VQAv2": "datamodules.questions.vqa_v2",
        "Cityscapes": "datamodules.segmentation.cityscapes",
        "ImageMaskFolder": "datamodules.segmentation.image_mask_folder",
        "CocoPanoptic": "datamodules.objects.coco_panoptic",
        "RoadAnomaly": "datamodules.segmentation.road_anomaly",
    },
)
