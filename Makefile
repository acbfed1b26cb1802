# `make demo` and `make test` are all a newcomer needs; both set up on their first run.
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
BIN = .venv/bin
READY = .venv/ready

.PHONY: setup demo demo-all test test-slow mutants check audit bench same-bits report restore lock clean

setup: $(READY)

# uv installs exactly what the lock names, checked by hash, from whatever index pip and uv are configured for. Compiled
# at once, because where Python may not write bytecode (as in many containers) each process would compile torch anew: 4 s.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $(READY)

# As many runs side by side as there are cores: each has one thread, and more threads than cores would be slower by far.
demo: $(READY)
	$(BIN)/snakemake --cores $(CORES) --config study=demo
	@$(BIN)/coopnet answer demo

demo-all: $(READY)
	$(BIN)/snakemake --cores $(CORES) --config study=demo_all
	@$(BIN)/coopnet answer demo_all

test: $(READY)
	$(BIN)/pytest --numprocesses 2 --dist worksteal

test-slow: $(READY)
	$(BIN)/pytest --numprocesses 2 --dist worksteal -m slow

# Errors in the science, one at a time, and whether its tests notice them: make mutants ARGS="networks/loss.py --sample 20"
mutants: $(READY)
	$(BIN)/python tests/slow/mutants.py --jobs $(CORES) $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# Hashes, licences and known vulnerabilities of the dependencies; fails with Error 3 where the last cannot be looked up.
audit: $(READY)
	.ci/audit

# Speed beside the plain loop in benchmarks/, on the GPU if there is one; wants a machine that does nothing else.
bench: $(READY)
	$(BIN)/coopnet bench

# After an edit of the numerics that changes no bit: prove it, so that what was trained before stays valid.
same-bits: $(READY)
	$(BIN)/python -m benchmarks.same_bits

# The report of STUDY from its tables and its ledger alone: no data, no checkpoints, no logits.
STUDY ?= mini
report: $(READY)
	$(BIN)/coopnet report $(STUDY)

# All that DVC recorded of STUDY, from its remote.
restore: $(READY)
	$(BIN)/dvc pull --with-deps $(if $(filter full,$(STUDY)),report,studies/dvc.yaml:report@$(STUDY))

lock: $(READY)
	$(BIN)/python -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		--all-extras pyproject.toml -o requirements.lock

clean:
	rm -rf .venv .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis logs
