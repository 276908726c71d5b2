"""`python -m titok_hf.training ARGUMENTS` runs `titok-hf train ARGUMENTS`, for launchers of Python modules."""

import sys
from runpy import run_module

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    run_module("titok_hf.cli", run_name="__main__")
