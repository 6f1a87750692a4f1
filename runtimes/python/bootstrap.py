"""Starts the managed Python runtime: python bootstrap.py OPT (the folder of the layers)."""

import os
import sys

# The script's own folder is not on the path when PYTHONSAFEPATH is set, nor PYTHONPATH ours when the user sets it.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from _lambda_sandbox_runtime.main import main

if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "/opt")
