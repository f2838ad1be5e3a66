"""Data modules: files -> splits -> batches."""

from datamodules.image_mask_folder import ImageMaskFolder
from datamodules.street_scenes import StreetScenes

__all__ = ["ImageMaskFolder", "StreetScenes"]
