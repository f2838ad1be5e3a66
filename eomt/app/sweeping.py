"""The command `sweep`: what is swept, and the folder in which it goes on."""

from pathlib import Path
from typing import Any

from eomt.app import inspection
from eomt.app.log import show
from eomt.app.run_lock import SWEEP_LOCK, RunLock
from eomt.app.runs import create_run_folder
from eomt.app.sweep_settings import SweepSettings
from eomt.errors import UserError
from eomt.sweep.options import SweepOptions
from eomt.sweep.pool import Pool
from eomt.sweep.ray_pool import RayPool
from eomt.sweep.run import Subject, Sweep
from eomt.sweep.study import STORAGE
from eomt.tasks.base import AdaptationTask
from eomt.utils.ray_cluster import ray_module
from eomt.verification.audit import loaded_names

# of a trainer with one device
ALONE = ("auto", 1, "1", [0])


def run_sweep(task: AdaptationTask, data: Any, root: Path, settings: SweepSettings, options: SweepOptions) -> None:
    """Run a sweep, or go on with one.

    Args:
        task: The task, whose network has no adapters.
        data: The data module.
        root: Folder of all runs.
        settings: What the command line knows.
        options: What was asked for.

    Raises:
        UserError: See `eomt.sweep.run.Sweep`; or the data cannot be used, or the folder holds something else.
    """
    if options.launcher == "ray":
        # told before there is a folder
        ray_module()
    # before trainings would all do so
    data.prepare_data()
    inspection.set_up(data, "fit")
    for line in inspection.data_lines(data):
        show(line)
    rate = "base_lr" if "base_lr" in settings.config["model"]["init_args"] else "lr"
    subject = Subject(
        settings.config,
        task.network,
        bool(loaded_names(task.network)) or settings.allow_random_base,
        task.monitor,
        task.mode,
        f"model.{rate}",
        data.fold_records(options.folds),
        data.counts["train"]["images"],
        settings.check,
    )
    wanted = root / (settings.run_name or settings.name)
    goes_on = settings.run_name is not None and (wanted / STORAGE).is_file()
    folder = wanted if goes_on else create_run_folder(wanted, is_generated=settings.run_name is None)
    lock = RunLock(folder, SWEEP_LOCK)
    # what the processes do is imported once, before there is one
    pool = _pool(folder, settings, options)
    trainer = settings.config["trainer"]
    several = [
        f"{name} {trainer[name]}" for name in ("devices", "num_nodes") if trainer.get(name) not in (*ALONE, None)
    ]
    if several or pool.gpus > 1:
        show(
            f"Each training has one device ({', '.join(several) or f'{pool.gpus} GPUs are here'}): a fit on more sees "
            "more images in a step, and its best learning rate may be higher"
        )
    try:
        sweep = Sweep(subject, options, folder, pool, show)
        show(f"Sweep folder: {folder}{' goes on' if goes_on else ''}")
        sweep.run()
    except KeyboardInterrupt:
        show(f"Stopped; the same command goes on with --run_name {folder.name}")
        raise
    finally:
        pool.close()
        lock.release()
        if not goes_on and not (folder / STORAGE).exists():
            remove_empty(folder)


def _pool(folder: Path, settings: SweepSettings, options: SweepOptions) -> Pool | RayPool:
    if options.launcher == "ray":
        return RayPool(folder, settings.work, options.workers)
    return Pool(folder, settings.work, options.workers, [settings.work.__module__])


def remove_empty(folder: Path) -> None:
    """Remove the folder of a sweep that never began."""
    try:
        folder.rmdir()
    except OSError as error:
        raise UserError(f"{folder}: cannot be removed ({error.strerror}); look what is in it") from error
