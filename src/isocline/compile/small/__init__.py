"""Small graphs of known sizes as one C++ function of our own, without tensors between operators."""

from .emitting import emitted, suits

__all__ = ["emitted", "suits"]
