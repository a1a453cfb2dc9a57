# Everything happens in .venv, made once; nothing here needs root, a display or a GPU.
PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
EXTRAS := dev,video,classic-control,mujoco,numba,stats,cma,examples
STAMP := $(VENV)/.installed-$(EXTRAS)

# Where it learns, and for how long: `make train ENV=Acrobot-v1 STEPS=300000 SEED=1`
ENV ?= CartPole-v1
AGENT ?= a2c
SEED ?= 0
STEPS ?= 100000

# The networks are small: one thread each, so that two tests side by side do not fight.
export OMP_NUM_THREADS := 1

.PHONY: help install train test test-lowest lint format mutants bench dist clean

help:
	@echo "make train    train $(AGENT) on $(ENV), evaluate it, leave a run folder (ENV= AGENT= STEPS= SEED= change it)"
	@echo "make test     linter, type checker and the quick tests"
	@echo "make test-lowest  the quick tests with the lowest versions that pyproject.toml admits"
	@echo "make lint     linter and type checker alone"
	@echo "make format   format the code"
	@echo "make mutants  sabotage the code and see that the tests notice"
	@echo "make bench    measure environment steps per second"
	@echo "make dist     build wheel and sdist"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

train: $(STAMP)
	$(BIN)/python scripts/train.py --env $(ENV) --agent $(AGENT) --seed $(SEED) --total-timesteps $(STEPS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/typed/costgrad
	ln -sfn $(foreach room,rl agents envs scripts,../../../$(room)) $(foreach file,__init__.py __main__.py py.typed,../../../scripts/package/$(file)) build/typed/costgrad/
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist worksteal

# The lowest versions that pyproject.toml admits, in a venv of their own; its torch takes a download of some GB.
test-lowest: pyproject.toml constraints-lowest.txt
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --disable-pip-version-check -q -c constraints-lowest.txt \
		-e ".[video,classic-control,mujoco,numba,stats,cma,examples]" \
		pytest hypothesis pytest-xdist build setuptools stable-baselines3
	$(LOWEST)/bin/python -m pytest -q -m "not slow" -n 2 --dist worksteal --deselect tests/contracts/test_packaging.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

mutants: $(STAMP)
	$(BIN)/python -m tests.mutants

bench: $(STAMP)
	$(BIN)/python scripts/bench.py

dist: $(STAMP)
	$(BIN)/python -m build

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
