"""The Lambda service around the execution environments: its REST API, its store, invokes by name, concurrency.

Owns what AWS keeps in its control plane. It must not know the command line, or how an environment works inside: it asks the
host to deploy, to submit an invoke and to retire a version. The API's shapes, routes and limits are botocore's service model's.
"""
