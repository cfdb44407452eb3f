"""Small files in the layout of real products. Loaded by path: by the fixture ``products`` and by ``fuzzing.py``."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

ENMAP_STEM = "ENMAP01-____L2A-DT0000001053_20220611T072305Z_002_V010400_20231221T134421Z-"
# Of six bands: two detectors that overlap around 950 nm, as in the product.
ENMAP_WAVELENGTHS = (418.24, 700.5, 985.0, 902.2, 1600.1, 2445.5)


def write_enmap(
    folder: Path,
    numbers: NDArray[np.int16],
    *,
    wavelengths: tuple[float, ...] = ENMAP_WAVELENGTHS,
    image: str = "SPECTRAL_IMAGE.TIF",
    named: str | None = None,
    nodata: float | None = -32768,
    gain: str = "0.0001",
) -> Path:
    """An L2A product of ``numbers`` (bands, rows, columns): the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    count, height, width = numbers.shape
    place = {"crs": "EPSG:32633", "transform": Affine(30.0, 0.0, 380000.0, 0.0, -30.0, 5810000.0)}
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": "int16"}
    with rasterio.open(folder / f"{ENMAP_STEM}{image}", "w", nodata=nodata, **profile, **place) as dst:
        dst.write(numbers)
    with rasterio.open(folder / f"{ENMAP_STEM}QL_QUALITY_CLOUD.TIF", "w", **(profile | {"count": 1}), **place) as dst:
        dst.write(np.zeros((1, height, width), np.int16))
    bands = "".join(
        f'<bandID number="{i}"><wavelengthCenterOfBand>{centre}</wavelengthCenterOfBand><FWHMOfBand>{6 + i / 10}</FWHMOfBand>'
        f"<GainOfBand>{gain}</GainOfBand><OffsetOfBand>0</OffsetOfBand></bandID>"
        for i, centre in enumerate(wavelengths, start=1)
    )
    (folder / f"{ENMAP_STEM}METADATA.XML").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<level_X xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        "<metadata><schema><processingLevel>L2A</processingLevel></schema></metadata>"
        f"<product><image><merge><name>{named or ENMAP_STEM + image}</name></merge></image></product>"
        f"<specific><bandCharacterisation>{bands}</bandCharacterisation></specific></level_X>"
    )
    return folder


def write_prisma(
    path: Path,
    vnir: NDArray[np.uint16],
    swir: NDArray[np.uint16],
    *,
    level: str = "L2D",
    centres: bool = True,
    swir_scale: tuple[float, float] = (0.0, 1.0),
) -> Path:
    """A product of ``vnir`` and ``swir`` (lines, bands, samples), wavelengths descending, the last band of SWIR not measured."""
    height, _, width = vnir.shape
    with h5py.File(path, "w") as file:
        fields = file.create_group(f"HDFEOS/SWATHS/PRS_{level}_HCO/Data Fields")
        for name, cube, wavelengths in (
            ("Vnir", vnir, np.linspace(977.0, 407.0, vnir.shape[1])),
            ("Swir", swir, np.append(np.linspace(2497.0, 943.0, swir.shape[1] - 1), 0.0)),
        ):
            fields[f"{name.upper()}_Cube"] = cube
            file.attrs[f"List_Cw_{name}"] = wavelengths.astype(np.float32)
            file.attrs[f"List_Fwhm_{name}"] = np.where(wavelengths > 0, 11.5, 0).astype(np.float32)
            file.attrs[f"List_Cw_{name}_Flags"] = (wavelengths > 0).astype(np.int32)
            low, high = swir_scale if name == "Swir" else (0.0, 1.0)
            if level == "L1":
                file.attrs[f"ScaleFactor_{name}"], file.attrs[f"Offset_{name}"] = np.float32(100), np.float32(0)
            else:
                file.attrs[f"L2Scale{name}Min"], file.attrs[f"L2Scale{name}Max"] = np.float32(low), np.float32(high)
        less = 1 if centres else 0
        file.attrs["Product_ULcorner_easting"], file.attrs["Product_ULcorner_northing"] = 600000.0, 4500000.0
        file.attrs["Product_LRcorner_easting"] = 600000.0 + (width - less) * 30
        file.attrs["Product_LRcorner_northing"] = 4500000.0 - (height - less) * 30
        file.attrs["Epsg_Code"] = np.uint32(32632)
        file.attrs["Processing_Level"] = np.bytes_(level[1:])
    return path


def write_emit(
    path: Path,
    swath: NDArray[np.float32],
    glt_x: NDArray[np.int32],
    glt_y: NDArray[np.int32],
    *,
    good: tuple[int, ...] | None = None,
    chunks: tuple[int, ...] | None = None,
) -> Path:
    """An L2A product of ``swath`` (downtrack, crosstrack, bands) with a lookup table counted from 1."""
    from rasterio.crs import CRS

    count = swath.shape[2]
    with h5py.File(path, "w") as file:
        cube = file.create_dataset("reflectance", data=swath, chunks=chunks, compression=None if chunks is None else "gzip")
        cube.attrs["_FillValue"] = np.array([-9999.0], np.float32)
        bands = file.create_group("sensor_band_parameters")
        bands["wavelengths"] = np.linspace(381.0, 2493.0, count).astype(np.float32)
        bands["wavelengths"].attrs["units"] = "nm"
        bands["fwhm"] = np.full(count, 8.4, np.float32)
        bands["fwhm"].attrs["units"] = "nm"
        bands["good_wavelengths"] = np.array(good or (1,) * count, np.float32)
        location = file.create_group("location")
        location["glt_x"], location["glt_y"] = glt_x, glt_y
        location["lat"] = location["lon"] = np.zeros(swath.shape[:2])
        file.attrs["geotransform"] = np.array([-110.0, 5.4e-4, 0.0, 40.0, 0.0, -5.4e-4])
        file.attrs["spatial_ref"] = CRS.from_epsg(4326).to_wkt()
    return path


def write_netcdf(
    path: Path,
    cube: NDArray[Any],
    *,
    dims: tuple[str, str, str] = ("wavelength", "y", "x"),
    unit: str = "um",
    attributes: dict[str, Any] | None = None,
    mapping: dict[str, Any] | None = None,
) -> Path:
    """A NetCDF 4 file of one cube, 30 m pixels in UTM 33N whose first centre is (400015, 5799985)."""
    import h5netcdf
    from rasterio.crs import CRS

    sizes = dict(zip(dims, cube.shape, strict=True))
    band = next(name for name in dims if name not in ("x", "y", "lon", "lat"))
    coordinates = {
        "x": (400015.0 + 30 * np.arange(sizes.get("x", 0)), "projection_x_coordinate", "m"),
        "y": (5799985.0 - 30 * np.arange(sizes.get("y", 0)), "projection_y_coordinate", "m"),
        "lon": (12.0 + 0.001 * np.arange(sizes.get("lon", 0)), "longitude", "degrees_east"),
        "lat": (50.0 - 0.001 * np.arange(sizes.get("lat", 0)), "latitude", "degrees_north"),
        band: (np.linspace(0.4, 2.4, sizes[band]) * (1 if unit == "um" else 1000), "radiation_wavelength", unit),
    }
    with h5netcdf.File(path, "w") as file:
        file.dimensions = sizes
        for name in dims:
            values, standard, its_unit = coordinates[name]
            variable = file.create_variable(name, (name,), data=values)
            variable.attrs["standard_name"], variable.attrs["units"] = standard, its_unit
        crs = file.create_variable("crs", (), data=np.int32(0))
        crs.attrs.update({"crs_wkt": CRS.from_epsg(32633).to_wkt()} if mapping is None else mapping)
        variable = file.create_variable("reflectance", dims, data=cube, fillvalue=cube.dtype.type(-9999))
        variable.attrs.update({"grid_mapping": "crs"} | (attributes or {}))
    return path
