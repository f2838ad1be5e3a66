"""Data modules: files -> splits -> batches."""

from datamodules.cityscapes import Cityscapes
from datamodules.face_folder import FaceFolder
from datamodules.image_mask_folder import ImageMaskFolder
from datamodules.morph_faces import MorphFaces
from datamodules.morph_scenes import GeneratedFaces, GeneratedMorphs
from datamodules.panoptic import CocoPanoptic
from datamodules.road_anomaly import RoadAnomaly
from datamodules.severstal import Severstal
from datamodules.shape_questions import ShapeQuestions
from datamodules.steel_strips import SteelStrips
from datamodules.street_anomalies import StreetAnomalies
from datamodules.street_scenes import StreetScenes
from datamodules.vqa_csv import VQACsv
from datamodules.vqa_v2 import VQAv2

__all__ = [
    "Cityscapes",
    "CocoPanoptic",
    "FaceFolder",
    "GeneratedFaces",
    "GeneratedMorphs",
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
