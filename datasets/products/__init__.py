"""Hyperspectral products as scenes: EnMAP, PRISMA, EMIT, and NetCDF 4 by its conventions."""

from .emit import is_emit, open_emit
from .enmap import is_enmap, open_enmap
from .netcdf import is_netcdf, open_netcdf
from .prisma import is_prisma, open_prisma

__all__ = ["is_emit", "is_enmap", "is_netcdf", "is_prisma", "open_emit", "open_enmap", "open_netcdf", "open_prisma"]
