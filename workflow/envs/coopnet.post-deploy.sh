#!/usr/bin/env bash
# Run by Snakemake in the folder of the workflow, with the new environment active.
set -euo pipefail
uv pip sync --python "$CONDA_PREFIX/bin/python" requirements.lock
uv pip install --python "$CONDA_PREFIX/bin/python" --no-deps --no-build-isolation --editable .
