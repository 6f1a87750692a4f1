"""Hosts that are wrong in one thing: ours, with a tap that spoils it.

`python -m tests.mutants.hosts NAME CODE LAYER PORT TIMEOUT`
"""
