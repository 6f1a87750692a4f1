"""Code and layers: a folder or a .zip becomes the tree that a function sees as /var/task, layers become the one at /opt.

Owns what a deployment package may hold and how trees are merged, cached and copied. Must not know of functions, processes
or environments: it gets paths, and gives trees.
"""
