"""What a command prints: log lines of the first process, without the libraries' notes that say nothing here."""

import logging
import warnings

from eomt.utils.distributed import rank

log = logging.getLogger("eomt")


class _PrintHandler(logging.Handler):
    """Prints, so that a line finds its place above a live progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if rank() == 0:
            print(self.format(record), flush=True)


def set_up_output() -> None:
    """Prints the log of this package and silences warnings that are settled."""
    if not any(isinstance(handler, _PrintHandler) for handler in log.handlers):
        log.addHandler(_PrintHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory .* exists.*",
        ".*TensorBoard support.*",
        # frozen towers have no dropout
        ".*module\\(s\\) in eval mode at the start of training.*",
        # the samplers know where a resumed run goes on
        ".*dataloader is not resumable.*",
        # evaluation with other callbacks than training had is no mistake
        ".*callbacks used to create the checkpoint need to be provided.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message)
