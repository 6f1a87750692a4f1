"""What a host is tested with: a runtime and an extension that do what they are told, and tell what they saw.

`probe` is one file that is both, by the name that it is started under. It stands alone: Python 3, standard library only, for it
runs in any host.
"""
