"""Data modules: files -> splits -> batches."""

from typing import TYPE_CHECKING

from eomt.utils.lazy import lazily

if TYPE_CHECKING:
    from datamodules.classification.image_folder import ImageFolder
    from datamodules.common.data_module import DataModule
    from datamodules.common.image_data_module import ImageDataModule
    from datamodules.defects.severstal import Severstal
    from datamodules.faces.face_folder import FaceFolder
    from datamodules.faces.morph_faces import MorphFaces
    from datamodules.generated.faces.data_modules import GeneratedFaces, GeneratedMorphs
    from datamodules.generated.shapes.shape_images import ShapeImages
    from datamodules.generated.shapes.shape_questions import ShapeQuestions
    from datamodules.generated.steel.steel_strips import SteelStrips
    from datamodules.generated.streets.street_anomalies import StreetAnomalies
    from datamodules.generated.streets.street_scenes import StreetScenes
    from datamodules.questions.vqa_csv import VQACsv
    from datamodules.questions.vqa_v2 import VQAv2
    from datamodules.segmentation.cityscapes import Cityscapes
    from datamodules.segmentation.image_mask_folder import ImageMaskFolder
    from datamodules.segmentation.panoptic import CocoPanoptic
    from datamodules.segmentation.road_anomaly import RoadAnomaly

__all__ = [
    "Cityscapes",
    "CocoPanoptic",
    "DataModule",
    "FaceFolder",
    "GeneratedFaces",
    "GeneratedMorphs",
    "ImageDataModule",
    "ImageFolder",
    "ImageMaskFolder",
    "MorphFaces",
    "RoadAnomaly",
    "Severstal",
    "ShapeImages",
    "ShapeQuestions",
    "SteelStrips",
    "StreetAnomalies",
    "StreetScenes",
    "VQACsv",
    "VQAv2",
]

# what runs exported graphs needs small modules beside these, and not the libraries that these load
__getattr__ = lazily(
    __name__,
    {
        "ImageFolder": "datamodules.classification.image_folder",
        "DataModule": "datamodules.common.data_module",
        "ImageDataModule": "datamodules.common.image_data_module",
        "Severstal": "datamodules.defects.severstal",
        "FaceFolder": "datamodules.faces.face_folder",
        "MorphFaces": "datamodules.faces.morph_faces",
        "GeneratedFaces": "datamodules.generated.faces.data_modules",
        "GeneratedMorphs": "datamodules.generated.faces.data_modules",
        "ShapeImages": "datamodules.generated.shapes.shape_images",
        "ShapeQuestions": "datamodules.generated.shapes.shape_questions",
        "SteelStrips": "datamodules.generated.steel.steel_strips",
        "StreetAnomalies": "datamodules.generated.streets.street_anomalies",
        "StreetScenes": "datamodules.generated.streets.street_scenes",
        "VQACsv": "datamodules.questions.vqa_csv",
        "VQAv2": "datamodules.questions.vqa_v2",
        "Cityscapes": "datamodules.segmentation.cityscapes",
        "ImageMaskFolder": "datamodules.segmentation.image_mask_folder",
        "CocoPanoptic": "datamodules.segmentation.panoptic",
        "RoadAnomaly": "datamodules.segmentation.road_anomaly",
    },
)
