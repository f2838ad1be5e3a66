"""Data modules: files -> splits -> batches."""

from datamodules.image_mask_folder import ImageMaskFolder
from datamodules.severstal import Severstal
from datamodules.steel_strips import SteelStrips
from datamodules.street_scenes import StreetScenes

__all__ = ["ImageMaskFolder", "Severstal", "SteelStrips", "StreetScenes"]
