"""The version of rfx, in a place of its own so that every floor of the house may read it."""

__version__ = "0.1.0"
