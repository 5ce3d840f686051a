"""Tokenwire's version, as installed: all of its distributions have the same."""

from importlib.metadata import version

VERSION = version("tokenwire")
