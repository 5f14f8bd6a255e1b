"""Shipped settings under the name that they had: see :mod:`meta_rl.cli.settings`."""

from meta_rl.cli.settings import find_settings, settings_for

__all__ = ["find_settings", "settings_for"]
