"""A SAM 2 for predictors, made of graphs that run."""

from collections.abc import Mapping

import torch
from torch import Tensor

from eomt.export.record import PromptedSettings
from eomt.export.sessions import Session
from eomt.models.parts.sam2_outputs import SAM2Features, SAM2Prediction
from eomt.prompts.coordinates import NO_POINT_LABEL

# of the corners of a box among points, as in SAM 2's own code
BOX_LABELS = (2, 3)


class GraphSAM2:
    """SAM 2, as `eomt.predictors.prompted.PromptedModel`.

    Args:
        sessions: The graphs `image_encoder` and `prompt_decoder`, and `class_decoder` of a prompt-free network.
        img_size: Height and width of images.
        settings: What is said of the network.
    """

    def __init__(self, sessions: Mapping[str, Session], img_size: tuple[int, int], settings: PromptedSettings) -> None:
        self.sessions, self.img_size = sessions, img_size
        self.mask_size, self.prompt_free = settings.mask_size, settings.prompt_free

    def encode(self, image: Tensor) -> SAM2Features:
        """Return features of images, uint8 `(B, 3, H, W)`."""
        embedding, finest, finer, *pooled = self.sessions["image_encoder"](image=image)
        return SAM2Features(embedding, finer, finest, *(pooled or [embedding.new_empty(len(embedding), 0)]))

    def decode(
        self,
        features: SAM2Features,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> SAM2Prediction:
        """Return masks of N objects in each image; see `eomt.models.SAM2.decode`."""
        given = [prompt for prompt in (points, boxes, masks) if prompt is not None]
        batch, count = len(features.embedding), given[0].shape[1] if given else 1
        none = torch.zeros(batch, count, 1, 2), torch.full((batch, count, 1), NO_POINT_LABEL)
        parts = [none] if points is None and boxes is None else []
        if points is not None and labels is not None:
            parts.append((points, labels.long()))
        if boxes is not None:
            parts.append((boxes.unflatten(-1, (2, 2)), torch.tensor(BOX_LABELS).expand(batch, count, 2)))
        # SAM 2's code ends every prompt so
        parts.append(none)
        found = self.sessions["prompt_decoder"](
            **_named(features),
            point_coords=torch.cat([place for place, _ in parts], 2).float(),
            point_labels=torch.cat([label for _, label in parts], 2),
            mask_input=torch.zeros(batch, count, 1, *self.mask_size) if masks is None else masks.float(),
            has_mask_input=torch.full((batch, count), float(masks is not None)),
        )
        chosen = slice(1, None) if multimask else slice(0, 1)
        return SAM2Prediction(found[0][:, :, chosen], found[1][:, :, chosen], found[2])

    def decode_classes(self, features: SAM2Features) -> SAM2Prediction:
        """Return a mask of each class in each image."""
        return SAM2Prediction(*self.sessions["class_decoder"](**_named(features), pooled=features.pooled))


def _named(features: SAM2Features) -> dict[str, Tensor]:
    return {
        "image_embed": features.embedding,
        "high_res_feats_0": features.stride_4,
        "high_res_feats_1": features.stride_8,
    }
