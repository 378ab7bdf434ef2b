"""The command line, ``isocline``. Needs ``isocline[train]``."""
