"""Data modules: files -> splits -> batches."""

from datamodules.common.data_module import DataModule
from datamodules.common.image_data_module import ImageDataModule
from datamodules.defects.severstal import Severstal
from datamodules.faces.face_folder import FaceFolder
from datamodules.faces.morph_faces import MorphFaces
from datamodules.generated.faces.data_modules import GeneratedFaces, GeneratedMorphs
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
    "ImageMaskFolder",
    "MorphFaces",
    "RoadAnomaly",
    "Severstal",
    "ShapeQuestions",
    "SteelStrips",
    "StreetAnomalies",
    "StreetScenes",
    "VQACsv",
    "VQAv2",
]
