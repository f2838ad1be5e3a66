"""Anomaly scores, outlier exposure, class weights and few classes in the segmentation task."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.losses import MaskClassificationLoss
from eomt.losses.outlier_exposure import outlier_loss
from eomt.losses.point_targets import MapTargets
from eomt.metrics.anomaly import AnomalyMetric
from eomt.metrics.anomaly_scores import SCORES, anomaly_maps, msp
from eomt.metrics.components import ComponentSizes
from eomt.models.eomt import class_and_void_scores
from eomt.tasks import SemanticSegmentation
from eomt.tasks.anomaly_evaluation import TEMPERATURES, auprc_by_temperature, best_temperature, msp_at
from tests.tiny import make_eomt

SMALL = ComponentSizes(4, 4)


def make_task(num_classes: int = 3, **arguments: Any) -> SemanticSegmentation:
    torch.manual_seed(0)
    network = make_eomt(num_classes=num_classes, masked_attn_enabled=False)
    for parameter in network.parameters():
        # far from its start, where all windows would agree
        torch.nn.init.normal_(parameter, std=0.3)
    return SemanticSegmentation(network, num_points=64, **{"component_sizes": SMALL} | arguments).eval()


def make_samples(number: int = 4, size: tuple[int, int] = (32, 100)) -> list[dict[str, Any]]:
    """Images of two sets with their anomalies."""
    generator = torch.Generator().manual_seed(2)
    samples = []
    for index in range(number):
        anomaly = torch.zeros(size, dtype=torch.long)
        anomaly[4:14, 10 : 30 + index] = 1
        anomaly[-6:] = 255
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        image[:, anomaly == 1] //= 4
        name = f"{index}.png"
        samples.append({"image": image, "anomaly": anomaly, "name": name, "dataset": ["farm", "road"][index % 2]})
    return samples


def batch_of(samples: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {key: [sample[key] for sample in samples] for key in samples[0]}
    return {key: torch.stack(v) if isinstance(v[0], Tensor) else v for key, v in columns.items()}


def masked_samples() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    shape = (3, 32, 48)
    return [
        {
            "image": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
            "mask": torch.randint(0, 3, shape[1:], generator=generator),
            "name": f"mask {index}.png",
        }
        for index in range(2)
    ]


class Batches(LightningDataModule):
    """Batches that are there already, for validation and for test."""

    def __init__(self, val: list[dict[str, Any]], test: list[dict[str, Any]]) -> None:
        super().__init__()
        self.val, self.test = val, test

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, batch_size=None)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.test, batch_size=None)


def make_trainer(folder: Path) -> Trainer:
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", default_root_dir=folder, enable_model_summary=False, **silent)


def expected_maps(task: SemanticSegmentation, image: Tensor) -> Tensor:
    """Scores of an image of 32 x 100, window by window."""
    total, count = torch.zeros(task.network.num_classes + 1, 32, 100), torch.zeros(32, 100)
    for left in (0, 26, 52):
        mask_logits, class_logits = task.network(image[None, :, :, left : left + 48])[-1]
        masks = torch.nn.functional.interpolate(mask_logits, (32, 48), mode="bilinear")[0].sigmoid()
        total[:, :, left : left + 48] += torch.einsum("qc,qhw->chw", class_logits[0].softmax(-1), masks)
        count[:, left : left + 48] += 1
    return anomaly_maps(SCORES, total / count)


@torch.no_grad()
def test_a_test_split_of_masks_and_anomalies_measures_both(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task, samples = make_task(), make_samples()
    padding = batch_of(samples[:1]) | {"name": [""]}
    batches = [batch_of(samples[:2]), batch_of(masked_samples()), batch_of(samples[2:]), padding]
    with caplog.at_level(logging.INFO, "eomt"):
        (logged,) = make_trainer(tmp_path).test(task, Batches([], batches), verbose=False)

    exact = AnomalyMetric(SCORES, SMALL)
    for sample in samples:
        exact.update(sample["dataset"], expected_maps(task, sample["image"]), sample["anomaly"])
    for dataset, figures in exact.compute().items():
        assert task.all_figures[f"test_images/{dataset}"] == 2
        for score in SCORES:
            for figure, value in figures[score].items():
                assert task.all_figures[f"test_{figure}/{dataset}/{score}"] == pytest.approx(value, abs=1e-4), figure
            assert logged[f"test_auprc/{dataset}/{score}"] == pytest.approx(figures[score]["auprc"], abs=1e-4)
        start = next(place for place, text in enumerate(caplog.messages) if text.startswith(f"{dataset}: 2 images"))
        table = "\n".join(caplog.messages[start : start + len(SCORES) + 3])
        best = max(SCORES, key=lambda score: figures[score]["auprc"])
        assert f"Best AuPRC: {best}" in table
        assert all(score in table for score in SCORES)
    masks = masked_samples()
    predicted, _ = task.segment(torch.stack([sample["image"] for sample in masks]))
    truth = torch.stack([sample["mask"] for sample in masks])
    assert logged["test_accuracy"] == pytest.approx((predicted == truth).float().mean().item())


@torch.no_grad()
def test_each_window_passes_the_network_once_for_all_scores_and_the_classes() -> None:
    task, samples = make_task(window_batch_size=4), make_samples(2)
    task.keeps_anomaly_maps = True
    for sample in samples:
        sample["mask"] = torch.zeros(32, 100, dtype=torch.long)
    windows: list[int] = []
    task.network.register_forward_pre_hook(lambda _, inputs: windows.append(len(inputs[0])))
    found = task.test_step(batch_of(samples), 0)
    assert windows == [4, 2]  # three windows an image
    for index, sample in enumerate(samples):
        torch.testing.assert_close(found["anomaly_maps"][index], expected_maps(task, sample["image"]))


@torch.no_grad()
def test_the_loss_of_an_image_is_the_mean_over_its_windows() -> None:
    task, image = make_task(), make_samples(1)[0]["image"][None]
    mask = torch.zeros(1, 32, 100, dtype=torch.long)
    mask[:, :, 60:] = 2
    windows = [
        task.segment(image[..., left : left + 48], mask[..., left : left + 48])[1].item()  # type: ignore[union-attr]
        for left in (0, 26, 52)
    ]
    assert len(set(windows)) == 3
    assert task.segment(image, mask)[1].item() == pytest.approx(sum(windows) / 3, rel=1e-5)  # type: ignore[union-attr]


@torch.no_grad()
def test_images_of_different_sizes_are_measured_in_one_batch() -> None:
    task = make_task()
    task.keeps_anomaly_maps = True
    samples = [*make_samples(1), *make_samples(1, (40, 48))]
    found = task.test_step({key: [sample[key] for sample in samples] for key in samples[0]}, 0)
    assert [tuple(prediction.shape) for prediction in found["prediction"]] == [(32, 100), (40, 48)]
    for index, sample in enumerate(samples):
        alone = task.test_step(batch_of([sample]), 0)
        torch.testing.assert_close(found["anomaly_maps"][index], alone["anomaly_maps"][0])


class LiveBytes(TorchDispatchMode):
    """The most bytes that the results of operations held at one time, apart from what was there before."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in self.given:
                storage = leaf.untyped_storage()
                self.live[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self.live = {key: entry for key, entry in self.live.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return out


@torch.no_grad()
def peak_of(samples: list[dict[str, Any]]) -> int:
    """Bytes at the worst moment of measuring a batch, without the batch."""
    task = make_task(window_batch_size=4)
    batch = batch_of(samples)
    with LiveBytes([*task.state_dict().values(), batch["image"], batch["anomaly"]]) as counter:
        task.test_step(batch, 0)
    return counter.peak


def test_memory_does_not_grow_with_the_number_of_windows() -> None:
    # two windows an image, 4 and 64 of them: what grows are the class ids that are given back, and nothing else
    given_back = 30 * 32 * 96 * torch.int64.itemsize
    growth = peak_of(make_samples(32, (32, 96))) - peak_of(make_samples(2, (32, 96)))
    assert 0.95 * given_back < growth < 1.05 * given_back
    # one image of 4 and of 64 windows: what grows are 24 maps of its size: classes, scores, what they are ranked by
    growth = peak_of(make_samples(1, (32, 64 * 48))) - peak_of(make_samples(1, (32, 4 * 48)))
    assert growth < 24.5 * (60 * 32 * 48) * torch.float32.itemsize


def test_validation_names_the_best_temperature_and_test_takes_what_it_is_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = make_samples()
    task, trainer = make_task(), make_trainer(tmp_path)
    data = Batches([batch_of(samples)], [batch_of(samples)])
    with caplog.at_level(logging.INFO, "eomt"):
        (logged,) = trainer.validate(task, data, verbose=False)
    auprc = {}
    with torch.no_grad():
        for temperature in TEMPERATURES:
            metric = AnomalyMetric(["msp"], components=False)
            for sample in samples:
                scores = next(iter(task._results(sample["image"][None], None))).maps
                metric.update(sample["dataset"], msp(scores[:-1], temperature)[None], sample["anomaly"])
            auprc[temperature] = sum(figures["msp"]["auprc"] for figures in metric.compute().values()) / 2
    assert len(set(auprc.values())) > 1
    assert auprc[logged["val_temperature"]] == pytest.approx(max(auprc.values()), abs=1e-3)
    assert any(f"temperature: {logged['val_temperature']:g} gives MSP the best" in text for text in caplog.messages)

    trainer.test(task, data, verbose=False)
    assert task.all_figures["test_temperature"] == 1
    fixed = make_task(temperature=0.7)
    assert "val_temperature" not in trainer.validate(fixed, data, verbose=False)[0]
    trainer.test(fixed, data, verbose=False)
    assert fixed.all_figures["test_temperature"] == 0.7
    assert fixed.all_figures["test_auprc/farm/msp"] != task.all_figures["test_auprc/farm/msp"]


def test_of_equal_temperatures_the_one_nearest_to_1_is_chosen_and_none_without_anomalies() -> None:
    def figures(auprc: dict[float, float]) -> dict[str, dict[str, float]]:
        return {msp_at(temperature): {"auprc": auprc.get(temperature, 0.1)} for temperature in TEMPERATURES}

    def best(**anomalies: dict[str, dict[str, float]]) -> float:
        return best_temperature(auprc_by_temperature(anomalies))

    assert best(a=figures({0.01: 0.5, 0.3: 0.5, 3.0: 0.4})) == 0.3
    assert best(a=figures({0.3: 0.5, 1.0: 0.5, 3.0: 0.5})) == 1.0
    assert best(a=figures({0.01: 0.5}), b=figures({0.01: 0.1, 0.3: 0.9})) == 0.3
    nothing = figures(dict.fromkeys(TEMPERATURES, math.nan))
    assert auprc_by_temperature({"a": nothing}) == {}
    assert best(a=nothing, b=figures({0.03: 0.5})) == 0.03


def test_a_validation_of_masks_alone_logs_no_anomalies(tmp_path: Path) -> None:
    data = Batches([batch_of(masked_samples())], [])
    (logged,) = make_trainer(tmp_path).validate(make_task(), data, verbose=False)
    assert {"val_iou", "val_loss"} <= logged.keys()
    assert not any("auprc" in name or "temperature" in name for name in logged)


def test_anomalies_alone_log_no_iou(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = make_samples(1)
    samples[0]["anomaly"].clamp_(min=0).mul_(0)
    with caplog.at_level(logging.INFO, "eomt"):
        (logged,) = make_trainer(tmp_path).test(make_task(), Batches([], [batch_of(samples)]), verbose=False)
    assert {name.split("/")[0] for name in logged} == {"test_auprc"}
    assert all(math.isnan(value) for value in logged.values())
    assert any("No pixel is anomalous" in text for text in caplog.messages)


def test_predict_gives_maps_where_somebody_draws_them() -> None:
    task, batch = make_task(anomaly_scores=["rba", "void"]), batch_of(make_samples(1))
    with torch.no_grad():
        assert task.predict_step(batch, 0).keys() == {"prediction"}
        task.keeps_anomaly_maps = True
        maps = task.predict_step(batch, 0)["anomaly_maps"][0]
        expected = expected_maps(task, batch["image"][0])
    torch.testing.assert_close(maps, expected[[SCORES.index("rba"), SCORES.index("void")]])


@pytest.mark.parametrize("num_classes", [1, 2])
def test_binary_segmentation_learns_and_is_measured(num_classes: int, tmp_path: Path) -> None:
    """Two classes; and one class, where everything else is ignored."""
    torch.manual_seed(0)
    lora = LoRAConfig(rank=4, target_modules=["mask_head"], freeze_base_model=False)
    network = make_eomt(num_classes=num_classes)
    task = SemanticSegmentation(network, lora, num_points=64, component_sizes=SMALL)
    image = torch.full((2, 3, 32, 48), 40, dtype=torch.uint8)
    image[..., 20:] = 200
    mask = torch.full((2, 32, 48), 255 if num_classes == 1 else 1)
    mask[..., :20] = 0
    batch = {"image": image, "mask": mask, "name": ["a", "b"]}
    task.train()
    optimizer = torch.optim.AdamW([p for p in task.network.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(25):
        loss = task.losses(batch)[0]["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    anomaly = torch.zeros(2, 32, 48, dtype=torch.long)
    anomaly[..., 30:] = 1
    scored = {"image": image, "anomaly": anomaly, "name": ["a", "b"], "dataset": ["set", "set"]}
    (logged,) = make_trainer(tmp_path).test(task, Batches([], [batch, scored]), verbose=False)
    assert logged["test_iou"] > 0.9
    assert all(math.isfinite(logged[f"test_auprc/set/{score}"]) for score in SCORES)


def test_class_weights_weigh_queries_by_their_class() -> None:
    torch.manual_seed(3)
    predictions = [(torch.randn(1, 6, 8, 12), torch.randn(1, 6, 4))]
    mask = torch.zeros(1, 32, 48, dtype=torch.long)
    mask[:, 16:] = 2

    def class_loss(criterion: MaskClassificationLoss) -> float:
        torch.manual_seed(0)
        return criterion(predictions, mask)["class_loss"].item()

    weights = make_task(class_weights=[1.0, 1.0, 5.0]).criterion
    assert class_loss(make_task(class_weights=[1.0, 1.0, 1.0]).criterion) == class_loss(make_task().criterion)
    assert class_loss(make_task(class_weights=[1.0, 7.0, 1.0]).criterion) == class_loss(make_task().criterion)
    assert class_loss(weights) != pytest.approx(class_loss(make_task().criterion), rel=1e-3)
    # a class that weighs all leaves only its own query's loss
    criterion = make_task().criterion
    torch.manual_seed(0)
    targets = MapTargets(mask)
    costs = criterion.matching_costs([predictions[0][0]], predictions[0][1][None], targets)
    (assignment,) = criterion.match(costs, targets)
    query = assignment.query[0, assignment.target[0] == 1].item()
    alone = -predictions[0][1][0, query].log_softmax(0)[2].item()
    assert class_loss(make_task(class_weights=[1e-9, 1e-9, 1e9]).criterion) == pytest.approx(alone, rel=1e-5)


def test_outlier_exposure_takes_what_known_classes_claim_there_and_leaves_the_rest() -> None:
    torch.manual_seed(0)
    task = SemanticSegmentation(make_eomt(num_classes=3), num_points=64, outlier_weight=0.5)
    batch = task.synthetic_batch(2)
    batch["mask"] = torch.where(batch["outlier"], 255, batch["mask"])
    batch["image"][:, :, batch["outlier"][0]] = 0
    optimizer = torch.optim.AdamW(task.network.parameters(), lr=1e-3)
    before = class_and_void_scores(task.losses(batch)[1][-1])[:, :-1].sum(1)
    for _ in range(25):
        losses, _ = task.losses(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    after = class_and_void_scores(task.losses(batch)[1][-1])[:, :-1].sum(1)
    # patches that are outliers all over
    where = torch.nn.functional.interpolate(batch["outlier"][:, None].float(), after.shape[-2:], mode="area")[:, 0] == 1
    assert after[where].mean() < 0.3 * before[where].mean()
    assert after[~where].mean() > 3 * after[where].mean()


def test_outlier_exposure_is_part_of_the_loss_and_wants_outliers() -> None:
    batch = make_task().synthetic_batch(2)
    torch.manual_seed(0)
    plain, _ = make_task().losses(batch)
    torch.manual_seed(0)
    task = make_task(outlier_weight=0.5)
    torch.manual_seed(0)
    losses, predictions = task.losses(batch)
    claimed = outlier_loss(*predictions[-1], batch["outlier"])
    assert losses["outlier_loss"].item() == pytest.approx(claimed.item())
    parts = 5 * losses["mask_loss"] + 5 * losses["dice_loss"] + 2 * losses["class_loss"] + 0.5 * claimed
    assert losses["loss"].item() == pytest.approx(parts.item(), rel=1e-5)
    assert "outlier_loss" not in plain
    del batch["outlier"]
    with pytest.raises(UserError, match=r"outlier_weight: 0\.5"):
        task.losses(batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"anomaly_scores": ["msp", "mps"]}, "anomaly_scores: .*'mps'.*max_logit"),
        ({"anomaly_scores": ["msp", "msp"]}, "each once"),
        ({"anomaly_scores": []}, "anomaly_scores"),
        ({"temperature": 0.0}, "temperature: 0.0"),
        ({"component_sizes": (0, 4)}, "component_sizes"),
        ({"class_weights": [1.0, 2.0]}, "class_weights: .*must be 3"),
        ({"class_weights": [1.0, 2.0, 0.0]}, "class_weights"),
        ({"outlier_weight": -1.0}, "outlier_weight: -1.0"),
    ],
)
def test_bad_settings_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_task(**arguments)
