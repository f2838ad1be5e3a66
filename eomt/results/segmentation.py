"""The classes of an image's pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from eomt.errors import UserError, listed
from eomt.pictures.colors import palette
from eomt.pictures.masks import index_image, overlay
from eomt.results.coco import annotation
from eomt.results.result import Result


@dataclass(repr=False)
class SegmentationResult(Result):
    """The class of each pixel, and how unlike all classes it looks.

    Args:
        class_map: Class ids, int64 `(H, W)`.
        class_names: Names of the classes in the order of their ids.
        anomaly: Name of an anomaly score -> its map, float32 `(H, W)`; higher is more anomalous. See
            `eomt.metrics.anomaly_scores`.
    """

    class_map: np.ndarray
    class_names: Sequence[str]
    anomaly: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """Names of the classes that occur."""
        return [self.class_names[index] for index in self._present()]

    @property
    def masks(self) -> np.ndarray:
        """Masks of the classes that occur, bool `(N, H, W)`, in the order of `labels`."""
        return self.class_map[None] == np.array(self._present()).reshape(-1, 1, 1)

    def shares(self) -> dict[str, float]:
        """Return the share of the image, 0 to 1, that each class covers."""
        counts = np.bincount(self.class_map.ravel(), minlength=len(self.class_names))
        return {name: float(count / self.class_map.size) for name, count in zip(self.class_names, counts, strict=True)}

    def draw(self, alpha: float = 0.6) -> Image.Image:
        """Return the classes over the image.

        Args:
            alpha: 0 shows the image alone, 1 the colors alone.
        """
        image = torch.from_numpy(self.image).permute(2, 0, 1)
        painted = overlay(image, torch.from_numpy(self.class_map), palette(len(self.class_names)), alpha)
        return to_pil_image(painted)

    def draw_anomaly(self, score: str | None = None) -> Image.Image:
        """Return a map of an anomaly score, from its lowest value (dark) to its highest (bright).

        Args:
            score: Name of a score of `anomaly`; None takes the first.

        Raises:
            UserError: If the result does not have it.
        """
        import matplotlib

        score = next(iter(self.anomaly), "") if score is None else score
        if score not in self.anomaly:
            asked = f"no score {score!r}" if score else "no anomaly map"
            raise UserError(f"anomaly: there is {asked}; ask for it with predict(image, anomaly=[...])")
        values = self.anomaly[score]
        low, high = float(values.min()), float(values.max())
        shown = (values - low) / ((high - low) or 1.0)
        return Image.fromarray((matplotlib.colormaps["magma"](shown)[..., :3] * 255).round().astype(np.uint8))

    def png(self) -> Image.Image:
        """Return a palette image whose pixel values are the class ids."""
        return index_image(torch.from_numpy(self.class_map), palette(len(self.class_names)))

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each class that occurs: file, class, pixels and share of the image."""
        counts = np.bincount(self.class_map.ravel(), minlength=len(self.class_names))
        return [
            {
                "file": self.name,
                "class": self.class_names[index],
                "pixels": int(counts[index]),
                "share": float(counts[index] / self.class_map.size),
            }
            for index in self._present()
        ]

    def annotations(self) -> list[dict[str, Any]]:
        """Return one annotation of COCO for each class that occurs."""
        return [annotation(self.class_map == index, self.class_names[index]) for index in self._present()]

    def categories(self) -> list[str]:
        """Return the names of all classes."""
        return list(self.class_names)

    def _present(self) -> list[int]:
        return [int(index) for index in np.unique(self.class_map)]

    def _said(self) -> str:
        return f"{self.name!r}, {listed(self.labels)}"
