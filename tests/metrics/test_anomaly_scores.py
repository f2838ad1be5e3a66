"""Anomaly scores against sums over single queries and classes."""

import math

import pytest
import torch
from torch import Tensor

from eomt.metrics.anomaly_scores import SCORES as NAMES
from eomt.metrics.anomaly_scores import STRIP, anomaly_maps, entropy, msp
from eomt.models.eomt import Prediction, class_and_void_scores, class_scores


def make_logits(num_classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask_logits = 3 * torch.randn(1, 5, 2, 2, generator=generator)
    return mask_logits, 3 * torch.randn(1, 5, num_classes + 1, generator=generator)


def expected_scores(mask_logits: Tensor, class_logits: Tensor, temperature: float, normalize: bool) -> dict[str, float]:
    """The scores of the first pixel, query by query and class by class, in double precision."""
    num_classes = class_logits.shape[-1] - 1
    known, void = [0.0] * num_classes, 0.0
    for query in range(class_logits.shape[1]):
        powers = [math.exp(value) for value in class_logits[0, query].tolist()]
        inside = 1 / (1 + math.exp(-mask_logits[0, query, 0, 0].item()))
        for index in range(num_classes):
            known[index] += powers[index] / sum(powers) * inside
        void += powers[-1] / sum(powers) * inside
    weights = [x ** (1 / temperature) if normalize else math.exp(x / temperature) for x in known]
    p = [weight / sum(weights) for weight in weights]
    return {
        "msp": 1 - max(p),
        "max_logit": -max(known),
        "entropy": -sum(x * math.log(x) for x in p),
        "energy": -math.log(sum(math.exp(x) for x in known)),
        "rba": -sum(math.tanh(x) for x in known),
        "void": void,
    }


@pytest.mark.parametrize("num_classes", [1, 2, 3, 19])
@pytest.mark.parametrize(("temperature", "normalize"), [(1.0, False), (0.3, False), (1.0, True), (2.0, True)])
def test_scores_are_their_definitions(num_classes: int, temperature: float, normalize: bool) -> None:
    logits = make_logits(num_classes)
    maps = anomaly_maps(NAMES, class_and_void_scores(Prediction(*logits))[0], temperature, normalize)
    expected = expected_scores(*logits, temperature, normalize)
    assert maps.shape == (6, 2, 2)
    found = dict(zip(NAMES, maps[:, 0, 0].tolist(), strict=True))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_class_scores_are_those_of_the_segmentation() -> None:
    logits = make_logits()
    torch.testing.assert_close(class_and_void_scores(Prediction(*logits))[:, :-1], class_scores(Prediction(*logits)))


def test_scores_are_made_in_single_precision_under_autocast() -> None:
    logits = make_logits()
    with torch.autocast("cpu", torch.bfloat16):
        found = class_and_void_scores(Prediction(*logits))
    assert torch.equal(found, class_and_void_scores(Prediction(*logits)))


def test_msp_still_tells_pixels_apart_where_one_class_is_all_but_certain() -> None:
    gaps = torch.tensor([20.0, 30.0, 40.0])
    scores = torch.stack([gaps, torch.zeros(3)])[:, None]  # two classes, (2, 1, 3)
    assert msp(scores)[0].tolist() == pytest.approx([math.exp(-20), math.exp(-30), math.exp(-40)])


def test_entropy_is_largest_where_nothing_is_known_and_0_for_one_class() -> None:
    for number in (2, 19):
        assert entropy(torch.full((number, 1, 1), 0.3)).item() == pytest.approx(math.log(number), rel=1e-5)
    assert entropy(torch.rand(1, 1, 1)).item() == 0


def test_what_no_query_claims_is_more_anomalous_than_what_one_claims() -> None:
    # query 0: class 0 on the left half; query 1: "no object" on the right half
    class_logits = torch.tensor([[[8.0, 0.0, 0.0], [0.0, 0.0, 8.0]]])
    mask_logits = torch.tensor([[[[8.0, -8.0]], [[-8.0, 8.0]]]])
    maps = anomaly_maps(NAMES, class_and_void_scores(Prediction(mask_logits, class_logits))[0])
    assert (maps[:, 0, 1] > maps[:, 0, 0]).all()


def test_strips_are_put_together_seamlessly() -> None:
    scores = torch.rand(4, 2 * STRIP + 3, 2)
    whole = anomaly_maps(NAMES, scores)
    for top in (0, STRIP - 1, STRIP, 2 * STRIP + 2):
        torch.testing.assert_close(whole[:, top : top + 1], anomaly_maps(NAMES, scores[:, top : top + 1]))
