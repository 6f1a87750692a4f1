"""Starts the managed Python runtime: python bootstrap.py OPT (the folder of the layers)."""

import sys

from _lambda_sandbox_runtime.main import main

if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "/opt")
