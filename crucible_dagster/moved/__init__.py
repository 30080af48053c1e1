"""Modules under the names they had before the packages were split, as in `crucible_core.moved`.

`crucible_dagster/__init__.py` puts this folder on the package's path. All of them go with version 1.0. Two are missing:
`context_store`, the name of a function of the package, and `preload`, which only the server of step processes imports.
"""
