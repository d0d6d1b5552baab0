# Everything a newcomer types. The first target that needs it makes .venv from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test test-slow test-next lint bench figures clean

run: $(READY)  ## the three-way comparison on the embedded models, with the path of its report
	$(BIN)/python launch.py -m experiment=specdec_three_way

test: $(READY)  ## unit and integration tests
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

test-slow: $(READY)  ## the checks that take minutes
	$(BIN)/python -m pytest -m slow

test-next: $(READY)  ## configuration and sweeps on the pre-release of the next Hydra, in an environment beside ours
	$(PYTHON) -m venv $(VENV)-next
	echo $(CURDIR)/$(VENV)/lib/python*/site-packages > $$(echo $(VENV)-next/lib/python*/site-packages)/ours.pth
	$(VENV)-next/bin/python -m pip install --quiet --pre 'hydra-core>=1.4.0rc1,<1.5'
	PYTHONWARNINGS=ignore::UserWarning $(VENV)-next/bin/python -m pytest -W default tests/unit/test_config.py tests/unit/test_experiments.py tests/integration/test_sweep.py tests/integration/test_dry_run.py

lint: $(READY)  ## ruff, mypy, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## against the peers, side by side in one run
	$(BIN)/python -m bench.specdec
	$(BIN)/python -m bench.batched
	$(BIN)/python -m bench.replay
	$(BIN)/python -m bench.argo_mdp
	$(BIN)/python -m bench.argo_recall
	$(BIN)/python -m bench.argo_engine
	$(BIN)/python -m bench.argo_grid
	$(BIN)/python -m bench.controller_profile
	$(BIN)/python -m bench.controller_decision

figures: $(READY)  ## the README's tables and picture, from the commands that make them
	$(BIN)/python -m bench.readme

$(READY): requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-next
