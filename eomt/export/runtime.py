"""Models for predictors, made of graphs that run; no network of this package or of another is loaded."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from eomt.export.sessions import Session


class GraphScorer:
    """Semantic segmentation, as `eomt.predictors.segmentation.WindowScorer`.

    Args:
        sessions: The graph `model`.
        img_size: Height and width of a window.
    """

    def __init__(self, sessions: Mapping[str, Session], img_size: tuple[int, int]) -> None:
        self.graph, self.img_size = sessions["model"], img_size

    def window_scores(self, images: Tensor) -> Iterable[Tensor]:
        """Return scores of each class and of "no object", K of `(C + 1, h, w)`, for windows, uint8 `(K, 3, h, w)`."""
        return self.graph(image=images)[0]


class GraphQueries:
    """Instance and panoptic segmentation, as `eomt.predictors.objects.QueryModel`.

    Args:
        sessions: The graph `model`.
        img_size: Height and width of a window.
    """

    def __init__(self, sessions: Mapping[str, Session], img_size: tuple[int, int]) -> None:
        self.graph, self.img_size = sessions["model"], img_size

    def queries(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mask logits `(K, Q, h, w)` and class logits `(K, Q, C + 1)` of windows, uint8 `(K, 3, H, W)`."""
        mask_logits, class_logits = self.graph(image=images)
        return mask_logits, class_logits


class GraphClassifier:
    """Image classification, as `eomt.predictors.classes.ClassScorer`.

    Args:
        sessions: The graph `model`.
        img_size: Height and width of an image.
        multi_label: Whether an image may have any number of the classes.
    """

    def __init__(self, sessions: Mapping[str, Session], img_size: tuple[int, int], multi_label: bool) -> None:
        self.graph, self.img_size, self.multi_label = sessions["model"], img_size, multi_label

    def scores(self, image: Tensor) -> Tensor:
        """Return the probability of each class, `(B, C)`, for images, uint8 `(B, 3, H, W)`."""
        return self.graph(image=image)[1]


class GraphMorphScorer:
    """Detection of morphs, as `eomt.predictors.faces.MorphScorer`.

    Args:
        sessions: The graph `model`.
        img_size: Height and width of a face.
    """

    def __init__(self, sessions: Mapping[str, Session], img_size: tuple[int, int]) -> None:
        self.graph, self.img_size = sessions["model"], img_size

    def scores(self, image: Tensor) -> Tensor:
        """Return the probability of a morph, `(B,)`, for images, uint8 `(B, 3, H, W)`."""
        return self.graph(image=image)[1]
