"""Strict reader of gzipped IDX files, the format of MNIST (LeCun, http://yann.lecun.com)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from .errors import DataError

__all__ = ["read_idx"]

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read one ``.gz`` IDX file of unsigned bytes.

    The format: two zero bytes, the type (8: unsigned byte), the number of dimensions, each size as
    a big-endian 32-bit integer, then the values in row-major order.

    Args:
        path: The file.
        dimensions: How many dimensions it must have: 3 for images, 1 for labels.

    Returns:
        uint8, in the shape that the header gives.

    Raises:
        DataError: If the file is missing, no gzip file, cut off, of another type or rank, or of
            another length than its header says.
    """
    data = _unzip(path)
    expected = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if data[:4] != expected:
        raise DataError(
            f"{path}: the magic number is 0x{data[:4].hex() or '(empty)'}, but 0x{expected.hex()} "
            f"(unsigned bytes, {dimensions} dimension(s)) is expected; this is another file than "
            "its name says: download it again"
        )
    header = 4 + 4 * dimensions
    if len(data) < header:
        raise DataError(
            f"{path}: {len(data)} bytes, but the header alone takes {header}; download it again"
        )
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    values = math.prod(shape)
    if len(data) - header != values:
        raise DataError(
            f"{path}: holds {len(data) - header:,} values, but its header says "
            f"{' x '.join(map(str, shape))} = {values:,}; download it again"
        )
    # A bytearray, for torch warns of tensors over memory that must not be written.
    return torch.frombuffer(bytearray(data[header:]), dtype=torch.uint8).view(*shape)


def _unzip(path: Path) -> bytes:
    try:
        with gzip.open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; name the folder that holds it with --data-dir, or leave "
            "--data-dir out to have MNIST downloaded"
        ) from error
    except EOFError as error:
        raise DataError(
            f"{path}: the gzip stream ends too early ({path.stat().st_size:,} bytes are here), so "
            "the download was cut off; download it again"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: not a sound gzip file ({error}); expected the compressed original, "
            "whose name ends in .gz: download it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
