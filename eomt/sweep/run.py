"""A sweep from its first training to its table."""

import csv
import io
import json
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from eomt.errors import UserError, counted
from eomt.models.network import Network
from eomt.reports.figures import rival_verdict
from eomt.reports.run_files import is_run, read_run
from eomt.sweep.drive import Allowance, Drive, Workers
from eomt.sweep.jobs import LOGS, RUNS, WINNER, Job, Report, read_report
from eomt.sweep.learning_curve import SHARES, Curve
from eomt.sweep.options import SweepOptions
from eomt.sweep.outcome import Outcome, Row
from eomt.sweep.plot import draw_curve, draw_sweep
from eomt.sweep.search import Found, Mode, Recipe, Reports, measure, search
from eomt.sweep.settings import changed, parse_grid
from eomt.sweep.study import Record
from eomt.sweep.ways import Way, Ways, chosen, ways_of
from eomt.utils.files import write_file
from eomt.utils.tables import text_table

# below the sweep's folder
FOLDS, TABLE, SUMMARY, BEST = "folds", "sweep.csv", "sweep.json", "best.yaml"
PLOT, CURVE = "sweep.png", "learning_curve.png"
# how addresses of adapters' fields begin
ADAPTERS = "model.lora_config."
# trainings, in whole ones, that the search of a way takes
TRAININGS_OF_WAY = 1.75
# callbacks that write what a search does not look at
NOT_IN_SEARCH = ("MergeOnSave", "EncoderOnSave", "PredictionPictures", "ReconstructionPictures")


@dataclass(frozen=True)
class Subject:
    """What is swept.

    Attributes:
        config: The whole configuration, as a run saves it.
        network: The network, without adapters.
        has_base: Whether its weights were read from a file, or may be random.
        metric: The metric that selects the best step.
        mode: Whether its best value is the highest or the lowest.
        rate: Address of the learning rate.
        folds: Splits for cross-validation, as the data's argument `splits` takes them; none where the split is given.
        images: Number of training images that are used of the split.
        check: Raises a UserError of a configuration that cannot be used; None checks none.
    """

    config: Mapping[str, Any]
    network: Network
    has_base: bool
    metric: str
    mode: Mode
    rate: str
    folds: Sequence[Mapping[str, Sequence[str]]]
    images: int
    check: Callable[[Mapping[str, Any]], None] | None = None

    @property
    def task_arguments(self) -> Mapping[str, Any]:
        """Arguments of the task."""
        return self.config["model"]["init_args"]

    @property
    def lora_config(self) -> dict[str, Any] | None:
        """Its adapters, with class_path and init_args; None for full fine-tuning."""
        given = self.task_arguments.get("lora_config")
        return None if given is None else {"init_args": dict(given.get("init_args", given))}

    @property
    def lr(self) -> float:
        """Its learning rate."""
        return float(self.task_arguments[self.rate.rpartition(".")[2]])


class Sweep:
    """A sweep.

    Args:
        subject: What is swept.
        options: How.
        folder: Where everything is written; a sweep that was begun there goes on.
        workers: Where trainings run.
        show: Prints a line.

    Raises:
        UserError: An option names what is not there, or the folder holds another sweep.
    """

    def __init__(
        self, subject: Subject, options: SweepOptions, folder: Path, workers: Workers, show: Callable[[str], None]
    ) -> None:
        self.subject, self.options, self.folder, self.workers, self.show = subject, options, folder, workers, show
        self.choices = parse_grid(options.grid, subject.config, subject.check)
        self.allowed = self._ways()
        has_head_rate = "head_lr" in subject.task_arguments
        self.recipe = Recipe(self._base(), subject.rate, subject.mode, has_head_rate)
        self.record = Record(folder, self._identity(), subject.mode)
        self.allowance = Allowance(options.budget)
        self.folds = self._folds()
        self._done = 0

    def run(self) -> Outcome:
        """Run the sweep, and write and show what it came to.

        Raises:
            UserError: The budget ended before one training came to a score, or all of them failed.
        """
        ways = self.allowed.ways
        self.show(
            f"Sweep: {counted(len(ways), 'way')} of training ({', '.join(way.name for way in ways)}), "
            f"{self._measurement()}; {counted(self.workers.workers, 'training')} at a time"
        )
        for line in self.allowed.left_out:
            self.show(f"  left out: {line}")
        drive = Drive(self.workers, self.record, self.allowance, self._report, self._tell)
        results = drive.run([self._plan(way) for way in ways])
        found = [result[0] for result in results]
        rows = [row for result in results for row in result[1]]
        outcome = Outcome(
            self.subject.metric, self.subject.mode, rows, found, self.allowed.left_out, bool(self.subject.folds)
        )
        outcome.sort()
        if outcome.winner is None or math.isnan(outcome.winner.value):
            raise UserError(self._nothing(found))
        self._write(outcome)
        curve = self._learning_curve(drive, outcome.winner) if self.options.learning_curve else None
        tested = self._finish(drive, outcome.winner)
        self._close(outcome, curve, tested)
        return outcome

    # -- what is done --------------------------------------------------------------------------------------------------

    def _ways(self) -> Ways:
        subject, options = self.subject, self.options
        found = ways_of(subject.network, subject.lora_config, subject.lr, subject.has_base)
        return Ways(chosen(found.ways, options.ways), found.left_out if options.ways is None else [])

    def _base(self) -> dict[str, Any]:
        """Return the configuration of the sweep's trainings, which write no more than the search looks at."""
        trainer = self.subject.config["trainer"]
        callbacks = trainer.get("callbacks") or []
        kept = [
            callback
            for callback in (callbacks if isinstance(callbacks, list) else [callbacks])
            if str(callback.get("class_path", "")).rpartition(".")[2] not in NOT_IN_SEARCH
        ]
        if not any(str(callback["class_path"]).endswith(".LoRACheckpoint") for callback in kept):
            kept.insert(0, {"class_path": "callbacks.LoRACheckpoint"})
        changes = {
            "trainer.callbacks": kept,
            "trainer.logger": False,
            "trainer.enable_progress_bar": False,
            "trainer.devices": 1,
            "trainer.num_nodes": 1,
            "trainer.strategy": "auto",
        }
        return changed(self.subject.config, changes)

    def _identity(self) -> dict[str, str]:
        """Return what must not change for a sweep to go on."""
        flat: dict[str, str] = {}

        def add(value: Any, address: str) -> None:
            if isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
                value = dict(enumerate(value, 1))
            if isinstance(value, Mapping) and value:
                for name, inner in value.items():
                    add(inner, address if name == "init_args" else f"{address}.{name}".lstrip("."))
            else:
                flat[address] = json.dumps(value, sort_keys=True, default=str)

        config = {name: value for name, value in self.recipe.base.items() if name not in ("ckpt_path", "run_name")}
        add({**config, "trainer": {**config["trainer"], "default_root_dir": None}}, "")
        options = {name: getattr(self.options, name) for name in ("folds", "ways", "rates", "grid")}
        return flat | {f"--{name}": json.dumps(value) for name, value in options.items()}

    def _folds(self) -> list[dict[str, Any]]:
        """Return the changes of the configuration that make each fold, and write their splits."""
        seed = self.subject.config.get("seed_everything")
        first = seed if isinstance(seed, int) and not isinstance(seed, bool) else 0
        found = []
        for number in range(1, self.options.folds + 1):
            fold: dict[str, Any] = {"seed_everything": first + number}
            if self.subject.folds:
                file = (self.folder / FOLDS / f"fold{number}.json").absolute()
                text = json.dumps(self.subject.folds[number - 1], indent=1) + "\n"
                if not file.is_file():
                    write_file(file, lambda path, text=text: path.write_text(text))  # type: ignore[misc]
                fold["data.splits"] = str(file)
            found.append(fold)
        return found

    def _measurement(self) -> str:
        kind = "folds" if self.subject.folds else "seeds"
        return f"each searched for its learning rate, and measured with {self.options.folds} {kind}"

    def _plan(self, way: Way) -> Generator[list[Job], Reports, tuple[Found, list[Row]]]:
        """Search a way, and measure its best rate, and the configuration as it was given if that is another."""
        found: Found = yield from search(way, self._choices(way), self.recipe, self.options.rates)
        if found.is_whole:
            self.record.prune([arm.name for arm, report in found.arms.items() if report.reached < 1])
        arms = [found.best] if found.best is not None else []
        arms += [arm for arm in found.arms if arm.is_given and arm not in arms and found.arms[arm].reached >= 1]
        rows = []
        for arm in arms:
            reports = yield from measure(arm, self.folds, self.recipe)
            folds = dict(enumerate(reports, 1))
            rows.append(Row(arm, found.arms[arm], folds, found.is_edge and arm == found.best))
        return found, rows

    def _choices(self, way: Way) -> list[dict[str, Any]]:
        """Return the grid's choices for a way: fields of adapters have no effect on one without any."""
        if way.has_adapters:
            return self.choices
        found: list[dict[str, Any]] = []
        for choice in self.choices:
            other = {address: value for address, value in choice.items() if not address.startswith(ADAPTERS)}
            found += [] if other in found else [other]
        return found

    def _learning_curve(self, drive: Drive, winner: Row) -> Curve | None:
        """Train the winner on shares of the images, as many steps as on all of them."""
        used = self.subject.config["data"]["init_args"].get("train_share", 1.0)
        same = self._same_length(winner)
        jobs = [
            self.recipe.fold_job(
                winner.arm, {**fold, **same, "data.train_share": share * used}, number, suffix=f"_share{share:g}"
            )
            for share in SHARES
            for number, fold in enumerate(self.folds, 1)
        ]

        def plan() -> Generator[list[Job], Reports, Reports]:
            return (yield jobs)

        [reports] = drive.run([plan()])
        points: dict[int, list[float]] = {}
        # a fold trains on other images than the split
        of_folds = [len(fold["train"]) * used for fold in self.subject.folds]
        images = round(sum(of_folds) / len(of_folds)) if of_folds else self.subject.images
        numbers = sorted(winner.scores)
        for place, share in enumerate(SHARES):
            part = [reports[job.name] for job in jobs[place * len(self.folds) : (place + 1) * len(self.folds)]]
            scores = [part[number - 1].score for number in numbers]
            if numbers and all(part[n - 1].error is None and part[n - 1].reached >= 1 for n in numbers):
                points[round(share * images)] = [score for score in scores if score is not None]
        points[images] = [winner.scores[number] for number in numbers]
        if len({len(scores) for scores in points.values()}) != 1 or not numbers:
            self.show("Learning curve: not all of its trainings came to an end, so there is none")
            return None
        curve = Curve(self.subject.metric, points)
        draw_curve(curve, self.folder / CURVE)
        return curve

    def _same_length(self, winner: Row) -> dict[str, Any]:
        """Return changes that let fewer images be shown for as many steps, validated as often."""
        trainer = self.subject.config["trainer"]
        report = next(iter(winner.folds.values()), winner.searched)
        if not trainer.get("max_epochs") or trainer["max_epochs"] < 0 or report.steps is None:
            return {}
        changes: dict[str, Any] = {"trainer.max_epochs": -1, "trainer.max_steps": report.steps}
        if trainer.get("check_val_every_n_epoch") and report.batches:
            every = trainer.get("val_check_interval") or 1.0
            batches = report.batches * trainer["check_val_every_n_epoch"]
            interval = every if isinstance(every, int) else max(1, round(batches * every))
            changes |= {"trainer.check_val_every_n_epoch": None, "trainer.val_check_interval": interval}
        return changes

    def _finish(self, drive: Drive, winner: Row) -> Report | None:
        """Test the winner, once, and write its stand-alone network; return the report of the test."""
        if winner.searched.reached < 1:
            return None
        self.allowance.budget = type(self.allowance.budget)()
        config = changed(self.subject.config, self.recipe.changes(winner.arm))

        def plan() -> Generator[list[Job], Reports, Report]:
            test = Job(winner.arm.name, config, command="test")
            merge = Job(winner.arm.name, config, command="merge")
            reports = yield [test]
            yield [merge]
            return reports[test.name]

        return drive.run([plan()])[0]

    # -- what is told --------------------------------------------------------------------------------------------------

    def _report(self, job: Job) -> Report:
        return read_report(self.folder, job)

    def _tell(self, job: Job, report: Report, waiting: int) -> None:
        if not self._done and job.command == "fit" and (pace := self.allowance.pace(job)) is not None:
            # of each way: its rates up to the first rung, the better half to the second, again half, and the folds
            whole = len(self.allowed.ways) * (TRAININGS_OF_WAY * len(self.choices) + self.options.folds)
            minutes = whole * pace / self.workers.workers / 60
            self.show(f"All of it takes some {minutes:.0f} min, if other trainings take as long as the first")
        self._done += 1
        if job.command != "fit":
            if report.error is not None:
                self.show(f"  {job.command}: {report.error}")
            return
        value = "no score" if report.score is None else f"{self.subject.metric} {report.score:.4f}"
        state = f"failed: {report.error}" if report.error else f"{value} at {report.reached:.0%}"
        self.show(f"  {job.name}: {state} ({report.seconds:.0f} s; {waiting} waiting)")

    def _nothing(self, found: Sequence[Found]) -> str:
        reports = [report for search in found for report in search.arms.values()]
        errors = [report.error for report in reports if report.error]
        if errors:
            return f"sweep: every training failed, such as by: {errors[0]}"
        pace = max((report.seconds for report in reports), default=0.0)
        if any(report.reached >= 1 for report in reports):
            return (
                f"{self.subject.metric}: no training came to a score, though some came to their end; validate more "
                f"often, see trainer.val_check_interval and {self.folder / LOGS}"
            )
        return (
            f"budget: it ended before one training came to a validation{f', after {pace:.0f} s' if pace else ''}; give "
            f"more, and it goes on: --run_name {self.folder.name}"
        )

    def _write(self, outcome: Outcome) -> None:
        """Write table, picture and the best configuration."""
        text = io.StringIO()
        csv.writer(text).writerows(outcome.table())
        write_file(self.folder / TABLE, lambda path: path.write_text(text.getvalue()))
        draw_sweep(outcome, self.folder / PLOT)
        winner = outcome.winner
        assert winner is not None
        config = changed(self.subject.config, self.recipe.changes(winner.arm))
        head = f"# python main.py fit --config {self.folder / BEST}\n#\n# {winner.title}, the best of a sweep.\n"
        body = head + yaml.safe_dump(dict(config), sort_keys=False)
        write_file(self.folder / BEST, lambda path: path.write_text(body))

    def _close(self, outcome: Outcome, curve: Curve | None, tested: Report | None) -> None:
        """Show table and verdict, and write the summary."""
        winner = outcome.winner
        assert winner is not None
        for line in text_table(outcome.table(), numbers=(1, 3, 4, 5, 6, 7, 8)):
            self.show(line)
        self.show(outcome.verdict())
        if outcome.baseline is not None:
            self.show(f"Before any training, at step 0: {outcome.metric} {outcome.baseline:.4f}")
        if curve is not None:
            self.show(curve.verdict())
        if tested is not None and tested.figures:
            name = self.subject.metric.replace("val_", "test_")
            value = tested.figures.get(name)
            self.show(f"Test, of the winner alone: {name} {'-' if value is None else f'{value:.4f}'}")
        run = self.folder / RUNS / winner.arm.name
        rivals = rival_verdict(read_run(run)) if tested is not None and is_run(run) else ""
        if rivals:
            self.show(f"The winner beside what is answered without training: {rivals}")
        if self.allowance.refused:
            self.show(
                f"The budget left out {counted(self.allowance.refused, 'training')}; it goes on with more: "
                f"--run_name {self.folder.name}"
            )
        summary = {
            "metric": outcome.metric,
            "baseline": outcome.baseline,
            "mode": outcome.mode,
            "winner": winner.arm.name,
            "way": winner.arm.way.name,
            "lr": winner.arm.lr,
            "rows": [
                {
                    "run": row.arm.name,
                    "way": row.arm.way.name,
                    "lr": row.arm.lr,
                    "grid": dict(row.arm.choice),
                    "as_configured": row.arm.is_given,
                    "searched": asdict(row.searched),
                    "scores": list(row.scores.values()),
                }
                for row in outcome.rows
            ],
            "tried": {arm.name: asdict(report) for found in outcome.found for arm, report in found.arms.items()},
            "left_out": outcome.left_out,
            "verdict": outcome.verdict(),
            "test": tested.figures if tested is not None else None,
            "rivals": rivals,
            "learning_curve": None if curve is None else {str(n): scores for n, scores in curve.points.items()},
            "more_images": None if curve is None else curve.verdict(),
        }
        write_file(self.folder / SUMMARY, lambda path: path.write_text(json.dumps(summary, indent=2) + "\n"))
        if winner.searched.reached < 1:
            self.show("The budget ended before the winner was trained to its end, so it is neither tested nor merged")
        self.show(f"Best: python main.py fit --config {self.folder / BEST}")
        written = [TABLE, PLOT, *([f"{WINNER}/"] if (self.folder / WINNER).is_dir() else [])]
        self.show(f"Sweep folder: {self.folder} ({', '.join(written)})")
