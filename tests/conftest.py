"""Threads, which must be set before torch is imported, and a seed for each test."""

import os
import random

import pytest

# a small suite runs twice as fast with one thread
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

# files that take long go first, so that two processes end together
LONGEST = ("test_quickstart.py", "test_promises.py", "test_cli_vqa.py", "test_cli.py", "test_inspect.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--seed`."""
    parser.addoption("--seed", type=int, default=0, help="of what tests draw without a seed of their own")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first; the others keep their order."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed what a test draws from, so that it does not depend on which tests ran before it."""
    import numpy as np
    import torch

    seed = item.config.getoption("--seed")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
