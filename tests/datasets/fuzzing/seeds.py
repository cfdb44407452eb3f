"""Whole files of every format, which the mutations start from. ``write_seeds`` gives each a folder of its own."""

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
import rasterio.shutil
import scipy.io
from affine import Affine

GRID = {"crs": "EPSG:32633", "transform": Affine(10.0, 0.0, 4e5, 0.0, -10.0, 5.8e6)}
_RNG = np.random.default_rng(0)
CUBE = _RNG.integers(1, 9000, (4, 24, 30)).astype(np.int16)
LABELS = _RNG.integers(0, 4, (24, 30)).astype(np.uint8)


def write_seeds(root: Path, *, models: bool = True) -> dict[str, dict[str, str]]:
    """Write the seeds and a list of them, ``seeds.json``: the reader and the file that is opened, by name."""
    warnings.simplefilter("ignore")
    made: dict[str, dict[str, str]] = {}

    def add(name: str, reader: str, entry: str) -> Path:
        made[name] = {"reader": reader, "entry": entry}
        (root / name).mkdir(parents=True)
        return root / name

    _rasters(add)
    _products(add)
    _labels(add)
    _images(add)
    _volumes(add)
    _collections(add)
    if models:
        _models(add)
    (root / "seeds.json").write_text(json.dumps(made))
    return made


def _tiff(path: Path, cube: Any = CUBE, driver: str = "GTiff", **options: Any) -> Path:
    count, height, width = cube.shape
    with rasterio.open(
        path, "w", driver=driver, count=count, height=height, width=width, dtype=cube.dtype, **(GRID | options)
    ) as dst:
        dst.write(cube)
        for band in range(1, count + 1):
            dst.update_tags(band, wavelength=str(400 + 100 * band), wavelength_units="nm")
    return path


def _rasters(add: Any) -> None:
    _tiff(add("geotiff", "scene", "a.tif") / "a.tif", nodata=-1, tiled=True, blockxsize=16, blockysize=16, compress="deflate")
    _tiff(add("geotiff_plain", "scene", "a.tif") / "a.tif")
    folder = add("geotiff_sidecar", "scene", "a.tif")
    _tiff(folder / "a.tif")
    (folder / "a.tif.aux.xml").write_text(
        '<PAMDataset><SRS>EPSG:32633</SRS><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">a.ovr.tif</MDI></Metadata>'
        '<PAMRasterBand band="1"><NoDataValue>-1</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    _tiff(folder / "a.ovr.tif", CUBE[:, ::2, ::2])
    _tiff(add("cog", "scene", "a.tif") / "a.tif", driver="COG")
    envi = add("envi", "scene", "a.hdr")
    _tiff(envi / "a.dat", driver="ENVI")
    with (envi / "a.hdr").open("a") as file:
        file.write("wavelength units = nm\nwavelength = {500, 600, 700, 800}\nbbl = {1, 1, 0, 1}\nfwhm = {5, 5, 5, 5}\n")
    folder = add("vrt", "scene", "a.vrt")
    _tiff(folder / "a.tif")
    rasterio.shutil.copy(folder / "a.tif", folder / "a.vrt", driver="VRT")
    _tiff(add("jp2", "scene", "a.jp2") / "a.jp2", CUBE.astype(np.uint16), driver="JP2OpenJPEG")
    scipy.io.savemat(add("mat5", "scene", "a.mat") / "a.mat", {"cube": CUBE.transpose(1, 2, 0), "other": np.ones(3)})
    with h5py.File(add("mat73", "scene", "a.mat") / "a.mat", "w") as file:
        file["cube"] = CUBE.transpose(0, 2, 1)


def _products(add: Any) -> None:
    spec = importlib.util.spec_from_file_location("product_files", Path(__file__).parents[1] / "products" / "product_files.py")
    assert spec is not None
    assert spec.loader is not None
    files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(files)
    six = _RNG.integers(1, 9000, (6, 20, 25)).astype(np.int16)
    files.write_enmap(add("enmap", "scene", "."), six)
    vnir, swir = (_RNG.integers(1, 9000, (20, count, 16)).astype(np.uint16) for count in (5, 6))
    files.write_prisma(add("prisma", "scene", "a.he5") / "a.he5", vnir, swir)
    x, y = np.meshgrid(np.arange(40) // 2, np.arange(30) // 2)
    files.write_emit(
        add("emit", "scene", "a.nc") / "a.nc", _RNG.random((15, 20, 6), np.float32), x.astype("i4") + 1, y.astype("i4") + 1,
        chunks=(8, 8, 3),
    )  # fmt: skip
    files.write_netcdf(add("netcdf", "scene", "a.nc") / "a.nc", CUBE)


def _labels(add: Any) -> None:
    with rasterio.open(
        add("labels_raster", "labels", "a.tif") / "a.tif",
        "w",
        driver="GTiff",
        count=1,
        height=24,
        width=30,
        dtype="uint8",
        **GRID,
    ) as dst:
        dst.write(LABELS, 1)
    import pyogrio
    import shapely

    boxes = [shapely.box(4e5 + 60 * i, 5.8e6 - 100, 4e5 + 60 * i + 40, 5.8e6 - 20) for i in range(3)]
    for name, suffix, driver in (
        ("gpkg", "gpkg", "GPKG"),
        ("geojson", "geojson", "GeoJSON"),
        ("shapefile", "shp", "ESRI Shapefile"),
    ):
        pyogrio.raw.write(
            add(name, "labels", f"a.{suffix}") / f"a.{suffix}", np.array(shapely.to_wkb(boxes), dtype=object),
            [np.array([1, 2, 3])], ["class"], geometry_type="Polygon", crs="EPSG:32633", driver=driver,
        )  # fmt: skip
    (add("classes", "classes", "a.csv") / "a.csv").write_text("value,name,color\n1,water,#0000ff\n2,forest,#00ff00\n3,soil\n")


def _images(add: Any) -> None:
    from PIL import Image

    pixels = _RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    for suffix in ("png", "jpg", "webp", "bmp", "tif"):
        Image.fromarray(pixels).save(add(f"image_{suffix}", "image", f"a.{suffix}") / f"a.{suffix}")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(add("image_png16", "image", "a.png") / "a.png")


def _volumes(add: Any) -> None:
    import nibabel
    import nrrd

    values = _RNG.integers(0, 2000, (7, 6, 5)).astype(np.int16)
    for name, suffix in (("nifti", "nii"), ("nifti_gz", "nii.gz")):
        nibabel.Nifti1Image(values, np.diag([1.0, 1, 2, 1])).to_filename(add(name, "volume", f"a.{suffix}") / f"a.{suffix}")
    nibabel.Nifti1Pair(values, np.eye(4)).to_filename(add("nifti_pair", "volume", "b.hdr") / "b.hdr")
    space = {"space": "left-posterior-superior", "space directions": np.eye(3), "space origin": np.zeros(3)}
    nrrd.write(str(add("nrrd", "volume", "a.nrrd") / "a.nrrd"), values, space | {"encoding": "gzip"})
    nrrd.write(str(add("nhdr", "volume", "a.nhdr") / "a.nhdr"), values, space | {"encoding": "raw"}, detached_header=True)
    _dicom(add("dicom", "volume", "."), values.astype(np.uint16))
    folder = add("cases", "cases", "dataset.json")
    for name in ("image", "label"):
        nibabel.Nifti1Image((values > 999).astype(np.uint8), np.eye(4)).to_filename(folder / f"{name}.nii.gz")
    listed = {"labels": {"0": "background", "1": "a"}, "training": [{"image": "./image.nii.gz", "label": "./label.nii.gz"}]}
    (folder / "dataset.json").write_text(json.dumps(listed))


def _dicom(folder: Path, values: Any) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    for k in range(3):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        made = FileDataset(str(folder / f"{k}.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
        made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID, made.Modality = "1.2.1", "1.2.2", "1.2.3", "CT"
        made.Rows, made.Columns = values.shape[:2]
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 0
        made.PixelSpacing, made.ImageOrientationPatient, made.ImagePositionPatient = [1, 1], [1, 0, 0, 0, 1, 0], [0, 0, 2 * k]
        made.SliceThickness, made.RescaleSlope, made.RescaleIntercept, made.InstanceNumber = 2, 1, -1024, k + 1
        made.PixelData = values[..., k].tobytes()
        made.save_as(folder / f"{k}.dcm", enforce_file_format=True)


def _collections(add: Any) -> None:
    import zarr

    for version in (2, 3):
        root = zarr.open_group(add(f"zarr{version}", "zarr", "a.zarr") / "a.zarr", mode="w", zarr_format=version)
        made = root.create_array("S2L2A", shape=(2, 12, 16, 16), dtype="u2", chunks=(1, 12, 8, 8))
        made[...] = _RNG.integers(1200, 9000, (2, 12, 16, 16)).astype(np.uint16)
    folder = add("stac", "collection", "items.json")
    _tiff(folder / "b4.tif", CUBE[:1].astype(np.uint16) + 1000)
    item: dict[str, Any] = {
        "type": "Feature", "stac_version": "1.0.0", "id": "a", "collection": "sentinel-2-l2a", "geometry": None, "links": [],
        "properties": {"datetime": "2023-06-10T07:46:21Z"},
        "assets": {"B04": {"href": "b4.tif", "type": "image/tiff", "eo:bands": [{"name": "B04", "center_wavelength": 0.665}]}},
    }  # fmt: skip
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item]}, indent=1))
    folder = add("catalogue", "collection", "catalog.json")
    _tiff(folder / "b4.tif", CUBE[:1].astype(np.uint16) + 1000)
    (folder / "item.json").write_text(json.dumps(item, indent=1))
    link = {"rel": "item", "href": "./item.json", "type": "application/json"}
    catalogue = {"type": "Catalog", "stac_version": "1.0.0", "id": "c", "description": "c", "links": [link]}
    (folder / "catalog.json").write_text(json.dumps(catalogue, indent=1))


def _models(add: Any) -> None:
    from geovit.apps.hyperspectral.model import Classifier, ModelInfo
    from geovit.apps.hyperspectral.recipe import Recipe, TrainingConfig
    from geovit.apps.hyperspectral.spectral_swin import SpectralSwinConfig
    from geovit.datasets import ClassInfo

    classes = tuple(ClassInfo(value, f"class {value}", (value, 0, 0)) for value in (1, 2))
    small = SpectralSwinConfig(dim=8, depth=1, heads=1, window=4)
    recipe = Recipe(spectral_swin=small, training=TrainingConfig(members=1))
    info = ModelInfo("0", 64, np.linspace(400, 2400, 64).tolist(), classes, recipe, {})
    Classifier(info).save(add("model", "model", "a.safetensors") / "a.safetensors")
