"""How many cases are drawn of each reader: some hundred in `make test`, always the same; many in `make fuzz`."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("FUZZ_CASES", "150")),
    derandomize="FUZZ_CASES" not in os.environ,
    database=None,
    # a busy machine is no mistake of a reader; bounds of time stand in the test
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
settings.load_profile("fuzz")
