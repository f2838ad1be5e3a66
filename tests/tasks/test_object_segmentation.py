"""Instance and panoptic segmentation: what is learned, measured, answered and logged."""

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from eomt.errors import UserError
from eomt.metrics import MaskAveragePrecision, PanopticQuality
from eomt.models.eomt import Prediction
from eomt.models.network import Network
from eomt.models.post_processing import Segments, find_instances, find_segments
from eomt.tasks import InstanceSegmentation, PanopticSegmentation, SemanticSegmentation
from eomt.tasks.configuration import Configuration
from eomt.tasks.object_segmentation import ObjectSegmentation
from tests.losses.test_mask_classification import LargestTensor
from tests.tiny import make_eomt
from tests.tiny_objects import make_batch

TASKS = [InstanceSegmentation, PanopticSegmentation]


def make_task(task_class: type[ObjectSegmentation[Any]], **arguments: Any) -> Any:
    torch.manual_seed(0)
    panoptic = task_class is PanopticSegmentation
    network = make_eomt(num_classes=3 if panoptic else 2, masked_attn_enabled=False)
    given = {"stuff_classes": [2]} if panoptic else {}
    return task_class(network, num_points=64, **{**given, **arguments})


def batch_for(task: Any, *seeds: int, size: tuple[int, int] = (32, 48)) -> dict[str, Any]:
    return make_batch(*seeds, size=size, panoptic=isinstance(task, PanopticSegmentation))


def make_trainer(folder: Path, **arguments: Any) -> Trainer:
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", default_root_dir=folder, enable_model_summary=False, **silent, **arguments)


@pytest.mark.parametrize(
    "task_class", [InstanceSegmentation, pytest.param(PanopticSegmentation, marks=pytest.mark.slow)]
)
def test_a_few_images_are_learned_and_every_figure_is_logged(task_class: Any, tmp_path: Path) -> None:
    task = make_task(task_class, lr=2e-3)
    batches = [batch_for(task, 0, 1, 2, 3)]
    trainer = make_trainer(tmp_path, max_steps=40, log_every_n_steps=20)
    trainer.fit(task, DataLoader(batches * 40, batch_size=None))  # type: ignore[arg-type]
    (figures,) = trainer.validate(task, DataLoader(batches, batch_size=None), verbose=False)  # type: ignore[arg-type]

    assert figures[task.monitor] > 0.7
    assert figures["val_loss"] < 3
    names = {f"val_{name}" for name in task.figures} | {"val_loss"}
    names |= {f"val_{task.class_figure}/class {index}" for index in range(task.network.num_classes)}
    assert figures.keys() == names
    assert {f"val_{name}" for name in task.file_metrics} <= names
    if task_class is PanopticSegmentation:
        assert figures["val_pq_stuff"] == pytest.approx(figures["val_pq/class 2"])

    (found, answered) = (task.eval().predict_step(batches[0], 0)[key] for key in ("found", "prediction"))
    for one, class_map, masks, labels in zip(found, answered, batches[0]["masks"], batches[0]["labels"], strict=True):
        assert sorted(one.labels.tolist()) == sorted(labels.tolist())
        for mask, label in zip(masks, labels, strict=True):
            assert float((class_map[mask] == label + 1).float().mean()) > 0.7


def predictions_of(task: Any, images: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    found = task.network(task.windows(images))[-1]
    return list(zip(*found, strict=True))


SIZES = [(32, 48), (20, 40), (70, 50)]


@pytest.mark.parametrize("task_class", TASKS)
def test_what_is_measured_is_what_queries_say_at_the_size_of_each_image(task_class: Any) -> None:
    """Images of several sizes, a crowd, and one that is padding of a rank."""
    overlap = {"overlap_threshold": 0.1} if task_class is PanopticSegmentation else {}
    task = make_task(task_class, score_threshold=0.2, **overlap).eval()
    with torch.no_grad():
        task.network.class_head.weight.mul_(20)
    samples = [batch_for(task, seed, size=size) for seed, size in enumerate([*SIZES, (30, 30)])]
    batch = {key: [sample[key][0] for sample in samples] for key in samples[0]}
    batch["is_crowd"][1][0] = True
    batch["name"][3] = ""
    if task_class is InstanceSegmentation:
        expected: Any = MaskAveragePrecision(2, 100)
    else:
        expected = PanopticQuality(3, [2])
    with torch.no_grad():
        logits = predictions_of(task, batch["image"])
        for index, size in enumerate(SIZES):
            truth = [batch[key][index] for key in ("masks", "labels", "is_crowd")]
            if task_class is InstanceSegmentation:
                found = find_instances(*logits[index], (32, 48), size)
                expected.update(found.masks, found.scores, found.labels, *truth)
            else:
                segments = find_segments(*logits[index], (32, 48), size, [2], 0.2, 0.1)
                assert segments.segment_map.any()
                expected.update(segments.segment_map, segments.labels, *truth)
        outputs = task.validation_step(batch, 0)
    found, wanted = task.val_metric.compute(), expected.compute()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, equal_nan=True)
    assert [tuple(one.shape) for one in outputs["prediction"]] == [*SIZES, (30, 30)]
    assert [int(one.max()) for one in outputs["mask"]] == [int(labels.max()) + 1 for labels in batch["labels"]]


def test_the_loss_of_validation_is_that_of_the_objects_in_the_window() -> None:
    """Without crowds; the same in every validation, and it leaves the random numbers of training alone."""
    task = make_task(InstanceSegmentation).eval()
    batch = batch_for(task, 0, 1)
    batch["is_crowd"][1][0] = True
    with torch.no_grad():
        state = torch.get_rng_state()
        task.validation_step(batch, 0)
        assert torch.equal(torch.get_rng_state(), state)
        found = task.evaluation_loss.compute()
        task.evaluation_loss.reset()
        batch["masks"][1], batch["labels"][1] = batch["masks"][1][1:], batch["labels"][1][1:]
        batch["is_crowd"][1] = batch["is_crowd"][1][1:]
        task.validation_step(batch, 0)
    assert task.evaluation_loss.compute() == found


def test_memory_of_evaluation_does_not_grow_with_queries() -> None:
    """Of 200 queries on a large image, a mask at the image's size is made of those alone that are answered."""
    task = make_task(PanopticSegmentation)
    size = (480, 720)
    generator = torch.Generator().manual_seed(0)
    prediction = Prediction(torch.randn(200, 8, 12, generator=generator), torch.zeros(200, 4))
    prediction.class_logits[:, 3] = 9
    prediction.class_logits[[3, 77], 1] = 20
    with LargestTensor() as largest:
        task.found(prediction, size, 0.8)
    assert largest.numel <= 2 * size[0] * size[1]


def test_objects_of_any_score_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """AP is about the order of scores, and needs those that `predict` leaves out."""
    task = make_task(InstanceSegmentation, score_threshold=0.9).eval()
    scores: list[Tensor] = []
    monkeypatch.setattr(task, "measure", lambda _, found, *__: scores.append(found.scores))
    with torch.no_grad():
        outputs = task.validation_step(batch_for(task, 0), 0)
    assert 0 < scores[0].max() < 0.9
    assert not outputs["prediction"][0].any()
    assert not len(outputs["found"][0].labels)


def test_a_brightness_threshold_is_measured_whatever_the_classes_and_without_padding() -> None:
    """The larger component, which is right, goes before the smaller one; padding would be a missed object."""
    task = make_task(InstanceSegmentation).eval()
    image, mask = torch.zeros(2, 3, 32, 48, dtype=torch.uint8), torch.zeros(1, 32, 48, dtype=torch.bool)
    mask[:, 4:16, 4:16] = True
    image[0, :, mask[0]] = image[0, :, 28:30, 40:42] = 255
    with torch.no_grad():
        task.test_step({"image": image, "masks": [mask] * 2, "labels": [torch.tensor([1])] * 2, "name": ["a", ""]}, 0)
    assert float(task.rival_metric.compute()["map"]) == pytest.approx(1)


def test_segments_are_shown_by_their_classes() -> None:
    segment_map = torch.tensor([[0, 1, 2], [2, 2, 0]], dtype=torch.int32)
    found = make_task(PanopticSegmentation).class_map(Segments(segment_map, torch.tensor([2, 0]), torch.ones(2)))
    assert found.tolist() == [[0, 3, 1], [1, 1, 0]]


def test_predict_leaves_out_objects_below_the_threshold() -> None:
    task = make_task(InstanceSegmentation, score_threshold=0.2).eval()
    batch = batch_for(task, 0)
    with torch.no_grad():
        task.network.class_head.weight.mul_(20)
        (few,) = task.predict_step(batch, 0)["found"]
        task.score_threshold = 0.0
        (all_of_them,) = task.predict_step(batch, 0)["found"]
    assert 0 < len(few.scores) < len(all_of_them.scores)
    assert torch.equal(few.scores, all_of_them.scores[: len(few.scores)])
    assert few.scores.min() >= 0.2


@pytest.mark.parametrize("task_class", TASKS)
def test_a_synthetic_batch_teaches_and_has_the_keys_of_the_data(task_class: Any) -> None:
    task = make_task(task_class).train()
    batch = task.synthetic_batch(2)
    assert batch.keys() == make_batch(0, 1).keys()
    assert task.is_supervised(batch)
    assert not task.is_supervised(batch | {"labels": [labels[:0] for labels in batch["labels"]]})
    losses, output = task.losses(batch)
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.network.parameters() if p.requires_grad)
    assert len(output) == task.network.num_blocks + 1
    busiest = task.first_samples(batch | {"labels": [batch["labels"][0][:1], batch["labels"][1]]}, 2)
    assert [len(labels) for labels in busiest["labels"]] == [16, 16]
    assert task.outputs(task.network, batch).shape == (2, task.network.num_classes, 8, 12)


def test_more_objects_than_queries_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    task = make_task(InstanceSegmentation).train()
    batch = task.synthetic_batch(2)
    for _ in range(2):
        task.losses(batch)
    (text,) = caplog.messages
    assert "num_q: 6 queries, but a training image shows 16 objects" in text


class StuffData:
    """Data whose last class is stuff."""

    from_task = ()
    num_classes = 3
    stuff_classes: ClassVar[list[int] | None] = [2]

    def __init__(self) -> None: ...

    def found_arguments(self) -> dict[str, Any]:
        return {}


def configured(data_class: Any, **task: Any) -> dict[str, Any]:
    configuration = Configuration(task, {"num_classes": 3}, Network, {}, data_class)
    configuration.fill_sizes = lambda: None  # type: ignore[method-assign]
    PanopticSegmentation.configure(configuration)
    return dict(configuration.task)


def test_stuff_is_filled_in_from_the_data() -> None:
    assert configured(StuffData, stuff_classes=None) == {"stuff_classes": [2]}
    assert configured(StuffData, stuff_classes=[2]) == {"stuff_classes": [2]}
    with pytest.raises(UserError, match=r"model.stuff_classes: \[1\], but those of the data are \[2\]"):
        configured(StuffData, stuff_classes=[1])


def test_stuff_that_was_given_stays_where_the_data_does_not_know() -> None:
    class Plain(StuffData):
        stuff_classes = None

    assert configured(Plain, stuff_classes=[1]) == {"stuff_classes": [1]}


@pytest.mark.parametrize(
    ("task_class", "arguments", "message"),
    [
        (InstanceSegmentation, {"max_detections": 0}, "max_detections: 0; must be at least 1"),
        (InstanceSegmentation, {"score_threshold": 1.5}, "score_threshold: 1.5; must be 0 to 1"),
        (PanopticSegmentation, {"score_threshold": -1}, "score_threshold: -1; must be 0 to 1"),
        (PanopticSegmentation, {"overlap_threshold": math.nan}, "overlap_threshold: nan; must be 0 to 1"),
        (PanopticSegmentation, {"stuff_classes": [3]}, r"stuff_classes: \[3\]; must be class ids, 0 to 2"),
        (SemanticSegmentation, {"num_points": 0}, "num_points: 0; must be at least 1"),
    ],
)
def test_impossible_values_are_refused(task_class: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task_class(make_eomt(num_classes=3), **arguments)
