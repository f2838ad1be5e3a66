"""Objects and segments of queries, against plain implementations and transformers' EomtImageProcessor."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import EomtImageProcessor

from eomt.models import post_processing
from eomt.models.post_processing import Instances, Segments, find_instances, find_segments
from eomt.utils.packed_masks import PackedMasks

WINDOW, CLASSES, QUERIES = (48, 48), 4, 12
SIZES = [(48, 48), (30, 60), (75, 40), (96, 20), (48, 47)]
STUFF = [2, 3]


def make_logits(seed: int, sharp: float = 6.0) -> tuple[Tensor, Tensor]:
    """Smooth masks that overlap, `(Q, 12, 12)`, and classes that are mostly sure, `(Q, C + 1)`."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(QUERIES, 1, 4, 4, generator=generator) * 8
    masks = F.interpolate(coarse, (12, 12), mode="bicubic")[:, 0]
    return masks, torch.randn(QUERIES, CLASSES + 1, generator=generator) * sharp


def whole(found: Any) -> list[Tensor]:
    """Return the parts of what was found as tensors."""
    return [part.dense() if isinstance(part, PackedMasks) else part for part in found]


def at_full_size(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Every mask at once, by what the authors do: to the window, cut, to the image."""
    factor = min(WINDOW[0] / size[0], WINDOW[1] / size[1])
    height, width = (max(1, round(side * factor)) for side in size)
    in_window = F.interpolate(masks[None], WINDOW, mode="bilinear")
    return F.interpolate(in_window[:, :, :height, :width], size, mode="bilinear")[0]


def plain_instances(masks: Tensor, classes: Tensor, size: tuple[int, int], most: int) -> list[tuple[float, int, Any]]:
    """Pairs of query and class by probability, one by one; score, class and mask of those that are not empty."""
    probabilities = classes.softmax(-1)[:, :-1].numpy()
    pairs = sorted(np.ndindex(*probabilities.shape), key=lambda pair: -probabilities[pair])[:most]
    full, found = at_full_size(masks, size).double().numpy(), []
    for query, label in pairs:
        inside = full[query] > 0
        if inside.any():
            certainty = (1 / (1 + np.exp(-full[query][inside]))).mean()
            found.append((float(probabilities[query, label] * certainty), label, inside))
    return sorted(found, key=lambda item: -item[0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [5, 100])
def test_instances_are_the_likeliest_pairs_of_query_and_class(size: tuple[int, int], most: int) -> None:
    masks, classes = make_logits(0, sharp=2.0)
    expected = plain_instances(masks, classes, size, most)

    found = find_instances(masks, classes, WINDOW, size, max_detections=most)

    assert len(found.scores) == len(expected) > 4
    for (score, label, mask), ours, our_label, our_mask in zip(
        expected, found.scores, found.labels, found.masks.dense(), strict=True
    ):
        assert float(ours) == pytest.approx(score, abs=1e-6)
        assert int(our_label) == label
        # an edge may round to the other side
        assert int((our_mask.numpy() != mask).sum()) <= 1


def test_a_threshold_leaves_out_scores_below_it_alone() -> None:
    masks, classes = make_logits(1)
    every = find_instances(masks, classes, WINDOW, (30, 60))
    threshold = float(every.scores[3])
    some = find_instances(masks, classes, WINDOW, (30, 60), threshold=threshold)
    assert len(some.scores) == 4 < len(every.scores)
    for ours, theirs in zip(whole(some), whole(every), strict=True):
        assert torch.equal(ours, theirs[:4])


def test_a_score_that_equals_the_threshold_is_enough() -> None:
    masks, classes = torch.full((1, 12, 12), 99.0), torch.zeros(1, 2)
    assert find_instances(masks, classes, WINDOW, WINDOW, threshold=0.5).scores.tolist() == [0.5]
    three = torch.tensor([0.9, 0.5, 0.4])
    found = Instances(PackedMasks.of(torch.ones(3, 2, 2).bool()), torch.arange(3), three)
    assert found.above(0.5).labels.tolist() == [0, 1]


def test_segments_of_exactly_the_thresholds() -> None:
    """A class must exceed its threshold; a share of the own mask must only reach it."""
    masks = torch.full((2, *WINDOW), 9.0)
    masks[1] = -9.0
    masks[1, :, : WINDOW[1] // 2] = 99.0
    classes = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    assert not len(find_segments(masks, classes, WINDOW, WINDOW, (), 0.5, 0.5).labels)
    # the second query takes half of the first one's pixels
    assert len(find_segments(masks, classes, WINDOW, WINDOW, (), 0.49, 0.5).labels) == 2
    assert len(find_segments(masks, classes, WINDOW, WINDOW, (), 0.49, 0.51).labels) == 1


def test_segments_become_objects_each_with_its_own_pixels() -> None:
    """One lies within the rectangle of the other, and one is below the threshold."""
    segment_map = torch.ones(6, 8, dtype=torch.int32)
    segment_map[1:3, 4:7], segment_map[5, 0], segment_map[0, :2] = 2, 3, 0
    found = Segments(segment_map, torch.tensor([4, 5, 6]), torch.tensor([0.9, 0.5, 0.4])).above(0.5)
    assert (found.labels.tolist(), len(found.scores)) == ([4, 5], 2)
    assert torch.equal(found.masks.dense(), torch.stack([segment_map == 1, segment_map == 2]))


def test_empty_masks_are_no_objects() -> None:
    masks, classes = make_logits(2)
    masks[::2] = -3
    found = find_instances(masks, classes, WINDOW, (30, 60))
    assert found.masks.areas.all()
    assert find_instances(masks * 0 - 3, classes, WINDOW, (30, 60)).masks.dense().shape == (0, 30, 60)


def plain_segments(
    masks: Tensor, classes: Tensor, size: tuple[int, int], threshold: float, overlap: float
) -> list[tuple[int, float, Any]]:
    """Class, score and pixels of each segment, by loops over queries and pixels of sets."""
    probabilities = classes.softmax(-1)
    kept = [q for q in range(QUERIES) if probabilities[q].argmax() < CLASSES and probabilities[q].max() > threshold]
    full = at_full_size(masks, size).sigmoid()
    if not kept:
        return []
    weighted = torch.stack([full[q] * probabilities[q].max() for q in kept]).numpy()
    winner = np.array(kept)[weighted.argmax(0)]
    found: list[tuple[int, float, Any]] = []
    for query in kept:
        own, won = full[query].numpy() >= 0.5, winner == query
        if not (own & won).any() or won.sum() < overlap * own.sum():
            continue
        label = int(probabilities[query].argmax())
        same = [place for place, segment in enumerate(found) if segment[0] == label and label in STUFF]
        if same:
            found[same[0]] = (*found[same[0]][:2], found[same[0]][2] | (own & won))
        else:
            found.append((label, float(probabilities[query].max()), own & won))
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("threshold", "overlap"), [(0.8, 0.8), (0.3, 0.3), (0.3, 0.0)])
def test_segments_are_those_of_the_definition(size: tuple[int, int], threshold: float, overlap: float) -> None:
    count = 0
    for seed in range(4):
        masks, classes = make_logits(seed, sharp=4.0)
        expected = plain_segments(masks, classes, size, threshold, overlap)
        found = find_segments(masks, classes, WINDOW, size, STUFF, threshold, overlap)
        assert found.labels.tolist() == [label for label, _, _ in expected]
        assert found.scores.tolist() == pytest.approx([score for _, score, _ in expected], abs=1e-6)
        assert found.segment_map.dtype == torch.int32
        count += len(expected)
        for number, (_, _, pixels) in enumerate(expected, start=1):
            assert int(((found.segment_map == number).numpy() != pixels).sum()) <= 1
        assert int(found.segment_map.max()) == len(expected)
    assert count >= 2


def test_stuff_is_fused_and_things_are_not() -> None:
    masks = torch.full((3, 12, 12), -9.0)
    masks[0, :4], masks[1, 4:8], masks[2, 8:] = 9, 9, 9
    classes = torch.full((3, CLASSES + 1), -9.0)
    classes[:, 2] = 9
    fused = find_segments(masks, classes, WINDOW, WINDOW, STUFF)
    apart = find_segments(masks, classes, WINDOW, WINDOW)
    assert fused.labels.tolist() == [2]
    assert apart.labels.tolist() == [2, 2, 2]
    assert torch.equal(fused.segment_map > 0, apart.segment_map > 0)


def test_nothing_sure_is_no_segment() -> None:
    masks, classes = make_logits(0)
    found = find_segments(masks, classes * 0, WINDOW, (30, 60), STUFF)
    assert not found.segment_map.any()
    assert found.segment_map.shape == (30, 60)
    assert len(found.labels) == 0


@pytest.mark.parametrize("masks_at_once", [1, 5])
def test_answers_do_not_depend_on_how_many_masks_are_held(masks_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    masks, classes = make_logits(3)
    size = (30, 60)
    expected = [find_instances(masks, classes, WINDOW, size), find_segments(masks, classes, WINDOW, size, STUFF, 0.3)]
    monkeypatch.setattr(post_processing, "MASK_PIXELS", masks_at_once * 48 * 48)
    held = []
    enlarged = F.interpolate

    def counted(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        held.append(values.shape[1])
        return enlarged(values, *args, **kwargs)

    monkeypatch.setattr(F, "interpolate", counted)
    found = [find_instances(masks, classes, WINDOW, size), find_segments(masks, classes, WINDOW, size, STUFF, 0.3)]
    assert max(held) == masks_at_once
    for ours, theirs in zip(found, expected, strict=True):
        for part, other in zip(whole(ours), whole(theirs), strict=True):
            torch.testing.assert_close(part, other)


# ---------------------------------------------------------------------------------------- against transformers

PROCESSOR = EomtImageProcessor(size={"shortest_edge": 48, "longest_edge": 48}, do_pad=True)


def outputs_of(masks: Tensor, classes: Tensor) -> SimpleNamespace:
    return SimpleNamespace(masks_queries_logits=masks[None], class_queries_logits=classes[None])


@pytest.mark.parametrize("size", SIZES)
def test_instances_are_those_of_transformers(size: tuple[int, int]) -> None:
    count = 0
    for seed in range(4):
        masks, classes = make_logits(seed)
        (expected,) = PROCESSOR.post_process_instance_segmentation(outputs_of(masks, classes), [size], threshold=0.6)
        found = find_instances(masks, classes, WINDOW, size, threshold=0.6)
        infos = sorted(expected["segments_info"], key=lambda info: -info["score"])
        count += len(infos)
        assert found.labels.tolist() == [info["label_id"] for info in infos]
        assert found.scores.tolist() == pytest.approx([info["score"] for info in infos], abs=2e-6)
        # it paints one over the other, in the order of its queries
        painted = torch.full(size, -1.0)
        for mask, info in sorted(zip(found.masks.dense(), infos, strict=True), key=lambda pair: pair[1]["id"]):
            painted[mask] = info["id"]
        assert int((painted != expected["segmentation"]).sum()) <= 1
    assert count >= 6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threshold", [0.8, 0.3])
def test_segments_are_those_of_transformers(size: tuple[int, int], threshold: float) -> None:
    count = 0
    for seed in range(4):
        masks, classes = make_logits(seed)
        (expected,) = PROCESSOR.post_process_panoptic_segmentation(
            outputs_of(masks, classes), [size], threshold, overlap_mask_area_threshold=0.4, stuff_classes=STUFF
        )
        found = find_segments(masks, classes, WINDOW, size, STUFF, threshold, overlap_threshold=0.4)
        count += len(found.labels)
        assert found.labels.tolist() == [info["label_id"] for info in expected["segments_info"]]
        scores = [info["score"] for info in expected["segments_info"]]
        assert found.scores.tolist() == pytest.approx(scores, abs=2e-6)
        assert int((found.segment_map - 1 != expected["segmentation"]).sum()) <= 1
    assert count >= 6
