"""What a sweep tries, gives up, and says; and that it goes on where it was stopped."""

import json
import math
from pathlib import Path

import optuna
import pytest
import yaml

from eomt.errors import UserError
from eomt.sweep.jobs import Job, Report
from eomt.sweep.options import Budget
from eomt.sweep.outcome import Outcome, as_if_whole
from tests.sweep.made_up import PEAKS, Clock, MadeUpWorkers, make_config, make_sweep, peak_score


def summary_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "sweep.json").read_text())


def test_each_way_finds_its_own_rate_and_the_best_way_wins(tmp_path: Path) -> None:
    sweep, lines = make_sweep(tmp_path / "s")
    outcome = sweep.run()
    found = {row.arm.way.name: row.arm.lr for row in outcome.rows if row is not outcome.given}
    assert found == {name: rate for name, (rate, _) in PEAKS.items()}
    assert not any(row.is_edge for row in outcome.rows)
    winner = outcome.winner
    assert winner is not None
    assert (winner.arm.way.name, winner.arm.lr) == ("attention_mlp", 3e-4)
    assert winner.estimate.mean == pytest.approx(0.85 - 0.002)
    assert winner.estimate.count == 3
    # Student's t of two degrees of freedom: .001 apart, 4.303 * .001 / sqrt(3)
    assert winner.estimate.half_width == pytest.approx(4.3026527 * 0.001 / math.sqrt(3), rel=1e-6)
    # the configuration as it was given is measured as well
    given = outcome.given
    assert given is not None
    assert (given.arm.lr, given.estimate.count) == (1e-3, 3)
    assert "LoRA on attention + MLP at 3e-4: val_iou 0.848 +- 0.002" in "\n".join(lines)
    assert "Test, of the winner alone: test_iou 0.5000" in lines
    assert "Before any training, at step 0: val_iou 0.1000" in lines


def test_a_best_rate_at_an_end_of_those_tried_is_searched_beyond(tmp_path: Path) -> None:
    def rising(job: Job) -> float:
        return 0.5 + 0.1 * math.log10(job.facts["lr"]) - (job.facts["lr"] > 0.05)

    workers = MadeUpWorkers(tmp_path / "s", rising)
    sweep, _ = make_sweep(tmp_path / "s", workers, ways=("attention",))
    winner = sweep.run().winner
    assert winner is not None
    # 3e-4, 1e-3, 3e-3 to begin with; 1e-2, 3e-2, 1e-1 beyond, where it fell
    assert winner.arm.lr == 3e-2
    assert not winner.is_edge
    assert {job.facts["lr"] for job in workers.begun} == {3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1}


def test_the_worse_half_of_a_way_is_given_up_and_the_given_configuration_never(tmp_path: Path) -> None:
    workers = MadeUpWorkers(tmp_path / "s")
    sweep, _ = make_sweep(tmp_path / "s", workers, ways=("attention_mlp",))
    sweep.run()
    shares: dict[float, float] = {}
    for job in workers.begun:
        if job.phase == 0:
            shares[job.facts["lr"]] = max(job.share, shares.get(job.facts["lr"], 0.0))
    # .85 at 3e-4, .825 at 1e-4 and 1e-3 (given), .75 at 3e-3
    assert shares[3e-4] == shares[1e-3] == 1
    assert shares[3e-3] == 0.25
    study = optuna.load_study(
        study_name="sweep",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(tmp_path / "s" / "study.log"))
        ),
    )
    states = {trial.user_attrs["run"]: trial.state.name for trial in study.trials}
    assert states["attention_mlp_lr3e-4"] == "COMPLETE"
    assert states["attention_mlp_lr3e-3"] == "PRUNED"
    assert study.best_trial.user_attrs["run"] == "attention_mlp_lr3e-4"
    assert study.best_trial.params["lr"] == 3e-4


@pytest.mark.parametrize("after", [1, 7, 16, 30])
def test_a_sweep_that_is_stopped_comes_to_the_same_table(tmp_path: Path, after: int) -> None:
    count = 0

    def stops(job: Job) -> float:
        nonlocal count
        count += 1
        if count > after:
            raise KeyboardInterrupt
        return peak_score(job)

    whole, _ = make_sweep(tmp_path / "whole")
    expected = whole.run().table()
    stopped, _ = make_sweep(tmp_path / "s", MadeUpWorkers(tmp_path / "s", stops))
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    workers = MadeUpWorkers(tmp_path / "s", workers=1)
    resumed, _ = make_sweep(tmp_path / "s", workers)
    assert resumed.run().table() == expected
    # nothing is done twice
    again = MadeUpWorkers(tmp_path / "s")
    third, _ = make_sweep(tmp_path / "s", again)
    assert third.run().table() == expected
    assert not again.begun
    names = [(job.name, job.share, job.command) for job in workers.begun]
    assert len(names) == len(set(names))


def test_trainings_that_fail_are_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    def fails(job: Job) -> float | Exception:
        if job.facts["way"] == "full" or job.facts["lr"] == 3e-4:
            return ValueError("train_loss: not finite at step 3")
        return peak_score(job)

    sweep, lines = make_sweep(tmp_path / "s", MadeUpWorkers(tmp_path / "s", fails))
    outcome = sweep.run()
    winner = outcome.winner
    assert winner is not None
    assert (winner.arm.way.name, winner.arm.lr) == ("attention_mlp", 1e-3)
    assert "full" not in {row.arm.way.name for row in outcome.rows}
    assert any("full_lr1e-4: failed: train_loss: not finite at step 3" in line for line in lines)
    tried = summary_of(tmp_path / "s")["tried"]
    assert isinstance(tried, dict)
    assert tried["full_lr1e-4"]["error"] == "train_loss: not finite at step 3"


def test_where_all_fail_the_first_reason_is_told(tmp_path: Path) -> None:
    sweep, _ = make_sweep(tmp_path / "s", MadeUpWorkers(tmp_path / "s", lambda job: ValueError("data: no images")))
    with pytest.raises(UserError, match="every training failed, such as by: data: no images"):
        sweep.run()


def test_a_study_of_another_configuration_is_refused(tmp_path: Path) -> None:
    make_sweep(tmp_path / "s")
    with pytest.raises(UserError, match=r"model\.lora_config\.rank was 8, and is 16 now; choose another name"):
        make_sweep(tmp_path / "s", config=make_config(rank=16))
    other = make_config()
    other["trainer"]["callbacks"] += [{"class_path": "callbacks.SegmentationResults", "init_args": {}}]
    with pytest.raises(
        UserError, match=r'trainer\.callbacks\.3\.class_path was not there, and is "callbacks\.Seg'
    ) as told:
        make_sweep(tmp_path / "s", config=other)
    assert len(str(told.value)) < 300 + len(str(tmp_path))
    with pytest.raises(UserError, match="--ways was null, and is"):
        make_sweep(tmp_path / "s", ways=("heads",))


def test_a_budget_of_trainings_keeps_some_for_the_measurement(tmp_path: Path) -> None:
    workers = MadeUpWorkers(tmp_path / "s")
    sweep, lines = make_sweep(tmp_path / "s", workers, budget=Budget.of_text("12"))
    outcome = sweep.run()
    names = {job.name for job in workers.begun}
    assert len(names) == 12
    # 60 % of it to search, and each way begins with its middle rate
    assert len({job.name for job in workers.begun if job.phase == 0}) == 7
    assert {job.facts["way"] for job in workers.begun[:5]} == {"attention_mlp", "heads", "attention", "last", "full"}
    assert any("The budget left out" in line for line in lines)
    assert outcome.winner is not None
    # with more, it goes on
    more, _ = make_sweep(tmp_path / "s", budget=Budget())
    whole, _ = make_sweep(tmp_path / "whole")
    assert more.run().table() == whole.run().table()


def test_a_budget_of_time_ends_the_sweep_and_leaves_the_measurement_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("eomt.sweep.drive.time", clock)
    workers = MadeUpWorkers(tmp_path / "s", clock=clock, workers=1)
    sweep, lines = make_sweep(tmp_path / "s", workers, budget=Budget.of_text("10m"))
    outcome = sweep.run()
    # a training takes a minute: six for the search, four for the measurement; the test takes its own
    shares = {job.name: job.share for job in workers.begun if job.phase == 0}
    assert sum(shares.values()) <= 6
    assert clock.now <= 600 + 120
    assert outcome.winner is not None
    assert outcome.winner.estimate.count >= 1
    assert any("The budget left out" in line for line in lines)


def test_a_budget_that_is_too_small_for_one_training_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("eomt.sweep.drive.time", clock)
    sweep, _ = make_sweep(tmp_path / "s", MadeUpWorkers(tmp_path / "s", clock=clock), budget=Budget.of_text("5s"))
    with pytest.raises(UserError, match="it ended before one training came to a validation; give more"):
        sweep.run()
    # with more, it goes on
    more, _ = make_sweep(tmp_path / "s")
    assert more.run().winner is not None


def test_a_grid_is_searched_for_the_ways_that_it_is_of(tmp_path: Path) -> None:
    def score(job: Job) -> float:
        return peak_score(job) + 0.01 * job.facts.get("model.lora_config.rank", 0) / 16

    workers = MadeUpWorkers(tmp_path / "s", score)
    sweep, lines = make_sweep(
        tmp_path / "s", workers, grid=("model.lora_config.rank=4,16",), ways=("heads", "attention")
    )
    winner = sweep.run().winner
    assert winner is not None
    assert winner.arm.choice == {"model.lora_config.rank": 16}
    assert "LoRA on attention (rank 16) at 1e-3" in "\n".join(lines)
    ranks = {
        job.config["model"]["init_args"]["lora_config"]["init_args"]["rank"]
        for job in workers.begun
        if job.facts["way"] == "attention"
    }
    assert ranks == {4, 16}
    assert all("_grid" not in job.name for job in workers.begun if job.facts["way"] == "heads")
    best = yaml.safe_load((tmp_path / "s" / "best.yaml").read_text())
    assert best["model"]["init_args"]["lora_config"]["init_args"]["rank"] == 16
    # what the search left out is there again
    assert best["trainer"]["callbacks"][0] == {"class_path": "callbacks.MergeOnSave"}


def test_the_learning_curve_trains_the_winner_on_fewer_images_for_as_many_steps(tmp_path: Path) -> None:
    def score(job: Job) -> float:
        share = job.config["data"]["init_args"]["train_share"]
        return peak_score(job) - 0.1 * ((40 * share) ** -0.5 - 40**-0.5)

    workers = MadeUpWorkers(tmp_path / "s", score)
    sweep, lines = make_sweep(tmp_path / "s", workers, ways=("attention",), learning_curve=True)
    sweep.run()
    jobs = [job for job in workers.begun if "_share" in job.name]
    assert [job.config["data"]["init_args"]["train_share"] for job in jobs] == [0.25] * 3 + [0.5] * 3
    trainer = jobs[0].config["trainer"]
    # ten epochs of ten batches, each validated
    assert (trainer["max_steps"], trainer["max_epochs"], trainer["val_check_interval"]) == (100, -1, 10)
    [line] = [line for line in lines if "twice the images" in line]
    # an error of images ** -0.5 falls by .1 * (40 ** -.5 - 80 ** -.5) = .0046
    low, high = (float(word) for word in line.split("about ")[1].rstrip(".").split(" to "))
    assert low <= 0.0046 <= high
    assert high < 0.01
    assert (tmp_path / "s" / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"


def test_folds_are_written_and_used(tmp_path: Path) -> None:
    workers = MadeUpWorkers(tmp_path / "s")
    sweep, _ = make_sweep(tmp_path / "s", workers, folds=3, ways=("attention",))
    outcome = sweep.run()
    assert outcome.unit == "folds"
    jobs = [job for job in workers.begun if job.phase == 1]
    files = [Path(job.config["data"]["init_args"]["splits"]) for job in jobs]
    assert [file.name for file in files] == ["fold1.json", "fold2.json", "fold3.json"]
    assert json.loads(files[0].read_text()) == {"train": ["a"], "val": ["y"], "test": ["z"]}
    assert [job.config["seed_everything"] for job in jobs] == [8, 9, 10]


def test_the_verdict_says_what_is_within_the_noise(tmp_path: Path) -> None:
    def close(job: Job) -> float:
        fold = int(str(job.facts["fold"])[0])
        return peak_score(job) if job.facts["way"] == "attention_mlp" else 0.84 + 0.02 * (fold % 2)

    sweep, _ = make_sweep(tmp_path / "s", MadeUpWorkers(tmp_path / "s", close), ways=("attention", "attention_mlp"))
    outcome: Outcome = sweep.run()
    assert "is within the noise" in outcome.verdict()


def test_what_is_cheap_enough_for_its_folds_does_not_win_for_that(tmp_path: Path) -> None:
    sweep, _ = make_sweep(tmp_path / "s")
    outcome = sweep.run()
    best, second, third = outcome.rows[:3]
    # a budget that ended before the folds of the best, and before the search of the third
    best.folds, third.folds, third.searched = {}, {}, Report(0.3, 0.99)
    outcome.rows = [third, second, best]
    outcome.sort()
    assert outcome.rows == [best, second, third]
    assert "(of the search alone)" in outcome.verdict()


def test_a_winner_that_was_not_trained_to_its_end_is_not_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("eomt.sweep.drive.time", clock)
    workers = MadeUpWorkers(tmp_path / "s", clock=clock, workers=1)
    sweep, lines = make_sweep(tmp_path / "s", workers, budget=Budget.of_text("40s"))
    sweep.run()
    assert any("it is neither tested nor merged" in line for line in lines)
    assert not any("winner/" in line for line in lines)


def test_the_picture_and_the_table_are_there(tmp_path: Path) -> None:
    sweep, _ = make_sweep(tmp_path / "s")
    sweep.run()
    assert (tmp_path / "s" / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    rows = (tmp_path / "s" / "sweep.csv").read_text().splitlines()
    assert rows[0].startswith("way,lr,val_iou,seeds")
    assert len(rows) == 7


@pytest.mark.parametrize("trials", [14, 17, 20, 24])
def test_a_budget_that_ends_in_the_search_leaves_all_ways_alike(tmp_path: Path, trials: int) -> None:
    """Rates beyond the ends of early ways were tried before the third rate of the last way."""

    def rising(job: Job) -> float:
        return 0.5 + 0.1 * math.log10(job.facts["lr"])

    workers = MadeUpWorkers(tmp_path / "s", rising)
    sweep, _ = make_sweep(tmp_path / "s", workers, budget=Budget(trials=trials))
    outcome = sweep.run()
    tried: dict[str, set[float]] = {}
    for job in workers.begun:
        if job.facts["fold"] == "0":
            tried.setdefault(job.facts["way"], set()).add(job.facts["lr"])
    numbers = [len(rates) for rates in tried.values()]
    assert len(numbers) == len(PEAKS)
    assert max(numbers) - min(numbers) <= 1
    # the best rate is the highest of those that were trained, whatever else was planned
    several = [row for row in outcome.rows if len(tried[row.arm.way.name]) > 1 and row is not outcome.given]
    assert several
    assert all(row.is_edge and row.arm.lr == max(tried[row.arm.way.name]) for row in several)


def test_rates_that_differ_in_their_third_digit_are_two_trainings(tmp_path: Path) -> None:
    workers = MadeUpWorkers(tmp_path / "s")
    sweep, lines = make_sweep(tmp_path / "s", workers, ways=("attention",), rates=(1.23e-3, 1.24e-3))
    winner = sweep.run().winner
    assert {job.facts["lr"] for job in workers.begun} == {1.23e-3, 1.24e-3}
    assert winner is not None
    assert winner.arm.lr == 1.23e-3
    # what is said is the rate of best.yaml
    assert any("LoRA on attention at 1.23e-3: val_iou" in line for line in lines)


@pytest.mark.parametrize("values", ["0.0,0.1", "-0.5,0.5", "null,0.1", "1,0.1", "'a,b',{c: 1}"])
def test_a_grid_may_have_any_values(tmp_path: Path, values: str) -> None:
    workers = MadeUpWorkers(tmp_path / "s")
    grid = (f"model.lora_config.lora_alpha={values}",)
    sweep, _ = make_sweep(tmp_path / "s", workers, ways=("attention",), rates=(1e-3,), grid=grid)
    assert sweep.run().winner is not None
    used = [job.config["model"]["init_args"]["lora_config"]["init_args"]["lora_alpha"] for job in workers.begun]
    assert all(yaml.safe_load(f"[{values}]")[place] in used for place in (0, 1))


def test_a_way_that_fails_in_the_hard_fold_does_not_win_with_the_easy_ones(tmp_path: Path) -> None:
    """Its mean over two easy folds is .70; the other way has .75 in these, and .65 in all three."""

    def hard(job: Job) -> float | Exception:
        fold = str(job.facts["fold"])
        if job.facts["way"] == "heads" and fold == "3":
            return ValueError("train_loss: not finite at step 3")
        best, score = {"heads": (3e-3, 0.7), "attention": (1e-3, 0.75)}[job.facts["way"]]
        return score - 0.1 * math.log10(job.facts["lr"] / best) ** 2 - (0.3 if fold == "3" else 0.0)

    sweep, lines = make_sweep(tmp_path / "s", MadeUpWorkers(tmp_path / "s", hard), ways=("heads", "attention"))
    outcome = sweep.run()
    first, second = outcome.rows[0], next(row for row in outcome.rows if row.arm.way.name == "heads")
    assert first.arm.way.name == "attention"
    assert (first.estimate.mean, second.estimate.mean) == (pytest.approx(0.65), pytest.approx(0.70))
    assert any("failed in seed 3" in line for line in lines)


def test_missing_folds_are_made_up_for_by_the_others() -> None:
    assert as_if_whole([{1: 0.8, 2: 0.6}, {1: 0.7, 2: 0.5}]) == pytest.approx([0.7, 0.6])
    # the second lacks the hard fold: .7 - (.8 - .6) there
    assert as_if_whole([{1: 0.8, 2: 0.6}, {1: 0.7}]) == pytest.approx([0.7, 0.6])
    assert as_if_whole([{}, {2: 0.4}]) == [None, pytest.approx(0.4)]
    assert as_if_whole([{}, {}]) == [None, None]
    assert as_if_whole([]) == []


def test_the_learning_curve_counts_the_images_that_the_folds_use(tmp_path: Path) -> None:
    """Of 16 images in the training part of each fold half are used; the curve has halves and quarters of these."""
    config = make_config()
    config["data"]["init_args"]["train_share"] = 0.5
    workers = MadeUpWorkers(tmp_path / "s")
    sweep, lines = make_sweep(
        tmp_path / "s", workers, config, folds=3, images=16, ways=("attention",), learning_curve=True
    )
    sweep.run()
    jobs = [job for job in workers.begun if "_share" in job.name]
    assert [job.config["data"]["init_args"]["train_share"] for job in jobs] == [0.125] * 3 + [0.25] * 3
    assert any("with 2, " in line and "with 4, " in line and "with 8 images" in line for line in lines)


def test_where_nothing_has_a_score_nothing_wins(tmp_path: Path) -> None:
    sweep, _ = make_sweep(tmp_path / "s", MadeUpWorkers(tmp_path / "s", lambda job: None))
    with pytest.raises(UserError, match="val_iou: no training came to a score, though some came to their end"):
        sweep.run()
