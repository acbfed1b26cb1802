# `make demo` and `make test` are all that a newcomer needs; both install the environment on their first run.
PYTHON ?= python3
# Wheels of PyTorch: `lock` for those of the lock, by hash; or cpu, cu126, cu130, … from PyTorch's own index.
TORCH ?= lock
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
BIN = .venv/bin
READY = .venv/ready

.PHONY: setup demo demo-all test test-slow mutants check audit bench same-bits report restore docs schemas lock clean

# Naming other wheels installs them, also into an environment that is there.
ifneq (,$(and $(filter setup,$(MAKECMDGOALS)),$(filter command,$(origin TORCH))))
.PHONY: $(READY)
endif

setup: $(READY)

# uv installs exactly the versions in the lock, checked by hash, from the index that pip and uv are configured for. Python
# files are compiled at once: where Python cannot write bytecode (many containers), each process would compile torch: 4 s.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
ifeq ($(TORCH),lock)
	$(BIN)/python -m uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
else
	awk '/^[^ #]/ {torch = /^(torch|torchvision|triton)==|^(cuda|nvidia)-/} !torch' requirements.lock > .venv/others.lock
	$(BIN)/python -m uv pip sync --quiet --compile-bytecode --python $(BIN)/python .venv/others.lock
	$(BIN)/python -m uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps \
		--torch-backend $(TORCH) $$(grep -oE '^(torch|torchvision)==[^ ;]+' requirements.lock)
endif
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $(READY)

# One run per core at a time: each has one thread, and more threads than cores would be much slower.
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

# Mutation test of the science: make one error at a time and check that a test fails. make mutants ARGS="networks/loss.py --sample 20"
mutants: $(READY)
	$(BIN)/python tests/slow/mutants.py --jobs $(CORES) $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# Hashes, licences and known vulnerabilities of the dependencies; fails with Error 3 if vulnerabilities cannot be looked up.
audit: $(READY)
	$(BIN)/python .ci/audit.py

# Speed compared with the plain loop in benchmarks/, on the GPU if there is one; needs an otherwise idle machine.
bench: $(READY)
	$(BIN)/coopnet bench

# After an edit of the numerics that changes no bit: prove that, so that earlier results stay valid.
same-bits: $(READY)
	$(BIN)/python -m benchmarks.same_bits

# The report of STUDY from its tables and its ledger only, without data, checkpoints or logits.
STUDY ?= mini
report: $(READY)
	$(BIN)/coopnet report $(STUDY)

# The documentation site in build/docs, built offline with warnings as errors. Open build/docs/index.html.
docs: $(READY)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --fresh-env -d build/doctrees docs build/docs
	@echo "The site: build/docs/index.html"

# All that DVC recorded for STUDY, from its remote.
restore: $(READY)
	$(BIN)/dvc pull --with-deps $(if $(filter full,$(STUDY)),report,studies/dvc.yaml:report@$(STUDY))

# The JSON schemas with which editors complete and check params.yaml and overlays.
schemas: $(READY)
	$(BIN)/python docs/reference.py

# The requirements of `dev`: everything except the larger clients of experiment trackers.
lock: $(READY)
	$(BIN)/python -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		--extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf .venv .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis logs
