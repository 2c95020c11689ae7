"""Hydra finds its plugins here; this one is `hydra/launcher=isolated`."""
