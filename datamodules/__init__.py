"""Data modules: files -> splits -> batches."""

from datamodules.face_folder import FaceFolder
from datamodules.image_mask_folder import ImageMaskFolder
from datamodules.morph_faces import MorphFaces
from datamodules.morph_scenes import GeneratedFaces, GeneratedMorphs
from datamodules.severstal import Severstal
from datamodules.shape_questions import ShapeQuestions
from datamodules.steel_strips import SteelStrips
from datamodules.street_scenes import StreetScenes
from datamodules.vqa_csv import VQACsv
from datamodules.vqa_v2 import VQAv2

__all__ = [
    "FaceFolder",
    "GeneratedFaces",
    "GeneratedMorphs",
    "ImageMaskFolder",
    "MorphFaces",
    "Severstal",
    "ShapeQuestions",
    "SteelStrips",
    "StreetScenes",
    "VQACsv",
    "VQAv2",
]
