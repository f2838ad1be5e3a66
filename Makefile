# make quickstart    install, then adapt a tiny EoMT to night scenes, test it, predict with it
# make test          install, then run the test suite
# make test-slow     install, then run the tests that take long
# make fuzz          install, then change valid files in 20,000 ways for every reader (an hour or two)
# make lint          style, format, types and import rules, and known weaknesses of pinned packages

PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python main.py
QUICKSTART := configs/quickstart/eomt.yaml

.PHONY: install quickstart test test-slow fuzz lint

install: .venv/installed

# on Debian and Ubuntu, venv has no pip without python3-venv; then the pip of python3-pip installs one there
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: PYTHON: $(PYTHON) is older than 3.11; give a newer one: make PYTHON=python3.12" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv 2>/dev/null \
		|| { $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install pip; } \
		|| { echo "error: PYTHON: $(PYTHON) cannot make an environment; run: apt-get install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[anomaly,data,demo,dev,export,openvino,peft,ray,sweep,tensorboard,vqa,wandb]"
	@touch $@

quickstart: install
	$(RUN) fit --config $(QUICKSTART)
	$(RUN) test --config $(QUICKSTART) --ckpt_path best
	$(RUN) predict --config $(QUICKSTART) --ckpt_path best
	@$(BIN)/python -m eomt.report runs

# two processes; all tests of a file run in one of them, since they share fixtures; long files come first
test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# what takes long: runs that are stopped at many moments, a whole quickstart, the wheel in a fresh environment
test-slow: install
	$(BIN)/python -m pytest --numprocesses 2 --dist load -m slow

# other cases each time; what fails is printed with what repeats it. CASES=1000 takes minutes
CASES ?= 20000
fuzz: install
	FUZZ_CASES=$(CASES) $(BIN)/python -m pytest --numprocesses 2 --dist load tests/fuzz

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/python .ci/audit.py
