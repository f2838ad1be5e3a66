"""Graphs of SAM 2: its image encoder, and a decoder for prompts or for the classes of a prompt-free network."""

from collections.abc import Iterable
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.export.exportable import Batch, Exportable
from eomt.export.graph import Graph
from eomt.export.prompted_runtime import BOX_LABELS, GraphSAM2
from eomt.export.record import PromptedSettings
from eomt.metrics import PromptedSegmentationMetric
from eomt.models.network import Network
from eomt.models.parts.sam2_decoder import predict_masks
from eomt.models.parts.sam2_outputs import SAM2Features, worth_answering
from eomt.models.sam2 import NO_POINT, SAM2
from eomt.prompts import PADDING_LABEL, evaluation_prompts
from eomt.tasks import PromptedSegmentation

FEATURES = ("image_embed", "high_res_feats_0", "high_res_feats_1")
PREDICTION = ("masks", "iou_predictions", "object_score_logits")
# prompts of evaluation on which the task's figures are compared
MODES = ("box", "centre")


class ImageEncoderGraph(nn.Module):
    """From images to features, in the names of SAM 2's field: `image_embed`, `high_res_feats_0` (the finest) and `_1`.

    Args:
        network: A merged SAM2.
    """

    def __init__(self, network: SAM2) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return features of images, uint8 `(B, 3, H, W)`, and, of a prompt-free network, what they show as a whole."""
        found = self.network.encode(image)
        levels = (found.embedding, found.stride_4, found.stride_8)
        pooled = (found.pooled,) if self.network.prompt_free else ()
        return tuple(level.float() for level in (*levels, *pooled))


class DecoderGraph(nn.Module):
    """A decoder; it stays in 32 bits: it is small, and 16 bits would round coordinates.

    Args:
        network: A merged SAM2.
    """

    def __init__(self, network: SAM2) -> None:
        super().__init__()
        self.network = network

    def half(self) -> Self:
        """Return itself."""
        return self


class PromptDecoderGraph(DecoderGraph):
    """From features and prompts of N objects to all four masks of each: one, and three for an ambiguous prompt."""

    def forward(
        self,
        image_embed: Tensor,
        high_res_feats_0: Tensor,
        high_res_feats_1: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return mask logits `(B, N, 4, h, w)`, predicted IoUs `(B, N, 4)` and logits of "an object", `(B, N, 1)`.

        Args:
            image_embed: `(B, D, h, w)`.
            high_res_feats_0: `(B, D / 8, 4h, 4w)`.
            high_res_feats_1: `(B, D / 4, 2h, 2w)`.
            point_coords: `(B, N, P, 2)`, x and y in pixels of the input image.
            point_labels: int64 `(B, N, P)`: 1 on the object, 0 off it, 2 and 3 the corners of a box, -1 none (one such
                at the end, as SAM 2's own code has it), -10 padding.
            mask_input: Mask logits `(B, N, 1, h, w)`.
            has_mask_input: `(B, N)`, 1 where the mask counts, else 0.
        """
        network, model = self.network, self.network.model
        coordinates = network.for_prompt_encoder(point_coords)
        sparse = model.prompt_encoder._embed_points(coordinates, point_labels, pad=False)
        given = model.prompt_encoder.mask_embed(mask_input.flatten(0, 1)).unflatten(0, has_mask_input.shape)
        none = model.prompt_encoder.no_mask_embed.weight.reshape(1, 1, -1, 1, 1)
        dense = torch.where(has_mask_input[..., None, None, None] > 0, given, none)
        features = SAM2Features(image_embed, high_res_feats_1, high_res_feats_0, image_embed)
        positions = model.get_image_wide_positional_embeddings()
        return tuple(predict_masks(model.mask_decoder, features, positions, sparse, dense, None))


class ClassDecoderGraph(DecoderGraph):
    """From features to a mask of each class, of a prompt-free network."""

    def forward(
        self, image_embed: Tensor, high_res_feats_0: Tensor, high_res_feats_1: Tensor, pooled: Tensor
    ) -> tuple[Tensor, ...]:
        """Return mask logits `(B, C, 1, h, w)`, IoUs `(B, C, 1)` and logits of "the class is there", `(B, C, 1)`."""
        features = SAM2Features(image_embed, high_res_feats_1, high_res_feats_0, pooled)
        return tuple(self.network.decode_classes(features))


def prompted_graphs(task: PromptedSegmentation, network: Network, batch: Batch, anomaly: list[str]) -> Exportable:
    """Return the graphs of a SAM 2; see `eomt.export.of_tasks.exportable_of`."""
    assert isinstance(network, SAM2)
    images = batch["image"] if len(batch["image"]) > 1 else batch["image"].repeat(2, 1, 1, 1)
    outputs = (*FEATURES, "pooled") if network.prompt_free else FEATURES
    encoder = Graph("image_encoder", ImageEncoderGraph(network), {"image": images}, {"image": {0: "batch"}}, outputs)
    features = dict(zip(outputs, encoder.answers(encoder.inputs), strict=True))
    of_batch = {name: {0: "batch"} for name in features}
    of_objects = {0: "batch", 1: "objects"}
    prompts = _example_prompts(len(images), network)
    decoder = Graph(
        "prompt_decoder",
        PromptDecoderGraph(network),
        {name: features[name] for name in FEATURES} | prompts,
        {name: of_batch[name] for name in FEATURES}
        | {"point_coords": of_objects | {2: "points"}, "point_labels": of_objects | {2: "points"}}
        | {"mask_input": of_objects, "has_mask_input": of_objects},
        PREDICTION,
    )
    graphs = [encoder, decoder]
    if network.prompt_free:
        graphs.append(Graph("class_decoder", ClassDecoderGraph(network), features, of_batch, PREDICTION))
    settings = PromptedSettings(
        class_names=network.class_names or [f"class {index}" for index in range(network.num_classes or 0)],
        mask_size=(network.mask_size[0], network.mask_size[1]),
        prompt_free=network.prompt_free,
    )
    runtime = partial(GraphSAM2, img_size=network.img_size, settings=settings)
    return Exportable(graphs, settings, network, runtime, _measure)


def _example_prompts(batch: int, network: SAM2) -> dict[str, Tensor]:
    """Return clicks on an object, a box, and a mask alone."""
    height, width = network.img_size
    places = torch.tensor([[[0.3, 0.4], [0.7, 0.2], [0, 0]], [[0.2, 0.1], [0.6, 0.9], [0, 0]], [[0.0, 0]] * 3])
    labels = torch.tensor([[1, 0, NO_POINT], [*BOX_LABELS, NO_POINT], [NO_POINT, NO_POINT, PADDING_LABEL]])
    generator = torch.Generator().manual_seed(0)
    return {
        "point_coords": (places * torch.tensor([width - 1.0, height - 1.0])).expand(batch, -1, -1, -1).contiguous(),
        "point_labels": labels.expand(batch, -1, -1).contiguous(),
        "mask_input": 4 * torch.randn(batch, 3, 1, *network.mask_size, generator=generator),
        "has_mask_input": torch.tensor([0.0, 0.0, 1.0]).expand(batch, -1).contiguous(),
    }


@torch.no_grad()
def _measure(model: Any, batches: Iterable[Batch]) -> dict[str, float]:
    """Return the IoU of objects prompted with a box and a click, as validation has it, and the Dice of classes."""
    metrics: dict[str, PromptedSegmentationMetric] = {}
    for batch in batches:
        features = model.encode(batch["image"])
        for index, (masks, ids, name) in enumerate(zip(batch["masks"], batch["class_ids"], batch["name"], strict=True)):
            # a figure of objects, of which a synthetic image has several of one class
            objects = list(range(len(masks)))
            size, own = (masks.shape[-2], masks.shape[-1]), features.select([index])
            for mode in MODES if len(masks) else ():
                prompts = evaluation_prompts(masks, name, ids.tolist(), mode).scaled(size, model.img_size)
                given = [None if part is None else part[None] for part in prompts]
                logits = model.decode(own, *given, multimask=False).mask_logits[0]
                metric = metrics.setdefault(mode, PromptedSegmentationMetric({}))
                metric.class_names |= {index: str(index) for index in objects}
                metric.update(F.interpolate(logits, size, mode="bilinear")[:, 0] > 0, masks, name, objects)
            if model.prompt_free:
                _measure_classes(model, own, masks, ids, name, metrics)
    return {f"val_{mode}_iou": float(metric.compute()["iou"]) for mode, metric in metrics.items()}


def _measure_classes(
    model: Any,
    features: SAM2Features,
    masks: Tensor,
    ids: Tensor,
    name: str,
    metrics: dict[str, PromptedSegmentationMetric],
) -> None:
    prediction = model.decode_classes(features)
    logits = F.interpolate(prediction.mask_logits[0], masks.shape[-2:], mode="bilinear")[:, 0]
    found = (logits > 0) & worth_answering(prediction)[0, :, None, None]
    every = masks.new_zeros(len(found), *masks.shape[-2:])
    for mask, class_id in zip(masks, ids, strict=True):
        every[class_id] |= mask
    metric = metrics.setdefault("none", PromptedSegmentationMetric({}))
    metric.class_names |= {index: str(index) for index in range(len(found))}
    metric.update(found, every, name, list(range(len(found))))
