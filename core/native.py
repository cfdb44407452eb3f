"""The compiled CPU kernels: found, loaded and checked once, when this module is first imported.

The library is optional. It is missing where the package was built without a C++ compiler or without torch's headers, and then
every op runs its eager form. Environment variables, read at that first import:

- ``GEOVIT_NATIVE=0`` leaves the library alone; a path loads that library instead, such as one built with sanitizers;
- ``GEOVIT_ISA=baseline|avx2|avx512`` asks for a lower instruction set than the CPU has.
"""

import ctypes
import os
from pathlib import Path

import torch

_ISAS = ("baseline", "avx2", "avx512")
_HOW = "with torch and a C++ compiler at hand, run `pip install --no-build-isolation .` in a checkout of geovit"


def _find() -> Path | None:
    # The package's path holds two folders in an editable install: the checkout, and site-packages, where CMake installs.
    from . import __path__ as folders

    name = "_native.dll" if os.name == "nt" else "_native.so"
    return next((path for folder in folders if (path := Path(folder, name)).is_file()), None)


def _load() -> tuple[bool, str, ctypes.CDLL | None]:
    asked = os.environ.get("GEOVIT_ISA")
    if asked is not None and asked not in _ISAS:
        raise ValueError(f"GEOVIT_ISA is {asked!r}, allowed are {', '.join(_ISAS)}")
    other = os.environ.get("GEOVIT_NATIVE")
    if other == "0":
        return False, "disabled by GEOVIT_NATIVE=0", None
    if other is not None and not Path(other).is_file():
        raise ValueError(f"GEOVIT_NATIVE is {other!r}, allowed are 0 and the path of a library")
    path = _find() if other is None else Path(other)
    if path is None:
        return False, f"this installation was built without it: {_HOW}", None
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        return False, f"torch {torch.__version__} cannot load {path}: {error.__cause__ or error}", None
    library = ctypes.CDLL(str(path))
    library.geovit_isa.restype = ctypes.c_char_p
    library.geovit_dot_bfloat16.restype = ctypes.c_bool
    library.geovit_keep_results.argtypes, library.geovit_keep_results.restype = [ctypes.c_int64], ctypes.c_int64
    isa = library.geovit_isa().decode()
    if asked not in (None, isa):
        raise ValueError(f"GEOVIT_ISA is {asked!r}, but this CPU has {isa} at most")
    return True, f"{isa} kernels of {path}", library


_LOADED, _TOLD, _LIBRARY = _load()


def native_status() -> tuple[bool, str]:
    """Whether the compiled kernels are loaded, and one line that says why or why not."""
    return _LOADED, _TOLD


def multiplies_bfloat16() -> bool:
    """Whether the compiled kernels are loaded and have products of bfloat16 on this CPU (AVX512-BF16)."""
    return _LIBRARY is not None and bool(_LIBRARY.geovit_dot_bfloat16())


def keep_results(most: int) -> int:
    """Set how many bytes of freed results the compiled kernels keep for the next ones; return how many it was.

    What is above goes back to the system at once. 0 where nothing is ever kept: without the library, and not on Linux.
    """
    return 0 if _LIBRARY is None else int(_LIBRARY.geovit_keep_results(most))
