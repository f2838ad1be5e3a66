"""The output of a command: log lines of the first process, without library warnings that do not apply."""

import logging
import warnings

from eomt.errors import printable
from eomt.utils.rank import rank

log = logging.getLogger("eomt")


class _PrintHandler(logging.Handler):
    """A handler that prints, so that a line appears above a running progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if rank() == 0:
            print(self.format(record), flush=True)


def _clean(record: logging.LogRecord) -> bool:
    """Write out what is no text in a line, such as the name of a file, for all handlers."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


def show(line: str) -> None:
    """Print a line of a command's result, with what is no text in it written out."""
    print(printable(line), flush=True)


def set_up_output() -> None:
    """Print the log of this package. Calling it again changes nothing."""
    if not any(isinstance(handler, _PrintHandler) for handler in log.handlers):
        log.addHandler(_PrintHandler())
    if _clean not in log.filters:
        log.addFilter(_clean)
    log.setLevel(logging.INFO)
    log.propagate = False


def silence_libraries() -> None:
    """Silence what libraries say that does not apply to this package.

    It has an effect only once they are loaded: Lightning sets the level of its log as it is imported.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory .* exists.*",
        ".*TensorBoard support.*",
        # the trainer has renamed them
        ".*Experiment logs directory .* exists.*",
        # frozen encoders are kept in eval mode, so that they have no dropout
        ".*module\\(s\\) in eval mode at the start of training.*",
        # this package's samplers resume where the run stopped
        ".*dataloader is not resumable.*",
        # where `predict` has nothing left to do, it says so
        ".*Total length of `LazyLoader` across ranks is zero.*",
        # evaluation may have other callbacks than training
        ".*callbacks used to create the checkpoint need to be provided.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message)
