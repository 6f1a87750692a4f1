"""The command line: one module per verb, imported when the verb is used.

Owns options, exit codes and what a person reads. It must not know how an environment works; it uses the library's face.
"""
