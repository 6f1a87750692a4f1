"""Conformance: what runtimes, extensions and hosts must do, and whether one does it.

Requirements are data (`requirements/*.toml`); cases are code (`cases/`), each tied to a requirement. The host of this
project is the tester: it starts the target, sees its traffic and spoils it. It must not know the command line; whoever runs
it decides what is printed where.
"""
