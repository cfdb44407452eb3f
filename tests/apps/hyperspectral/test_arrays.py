"""Arrays of xarray in, maps of xarray out."""

import dask
import numpy as np
import pytest
import rasterio
import rioxarray
import xarray

import geovit
from geovit.datasets import open_scene

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # affine's, at rioxarray's use of it


@pytest.fixture(scope="module")
def fitted(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("fitted") / "model.safetensors"
    model.cpu().save(path)
    return path


@pytest.fixture(scope="module")
def mapped(files, fitted, tmp_path_factory):
    """Classes and probabilities that the file gives."""
    done = geovit.classify(files.scene, model=fitted, out=tmp_path_factory.mktemp("out"), probabilities=True, device="cpu")
    with rasterio.open(done.files["map"]) as classes, rasterio.open(done.files["probabilities"]) as probabilities:
        return classes.read(1), probabilities.read(), classes.crs, classes.transform


@pytest.fixture(scope="module")
def array(files):
    """The scene as rioxarray reads it, with the bands' wavelengths, widths and bad-band list as coordinates."""
    with rasterio.open(files.scene) as src:
        tags = [src.tags(band) for band in src.indexes]
    opened = rioxarray.open_rasterio(files.scene).load()
    good = [float(tag.get("bbl", 1)) for tag in tags]
    found = opened.assign_coords(
        wavelength=("band", [float(tag["wavelength"]) for tag in tags], {"units": tags[0]["wavelength_units"]}),
        bbl=("band", good),
    )
    opened.close()
    return found


def same(found, mapped):
    classes, probabilities, crs, transform = mapped
    np.testing.assert_array_equal(found["classes"].values, classes)
    np.testing.assert_array_equal(found["probability"].values, probabilities[0])
    np.testing.assert_array_equal(found["entropy"].values, probabilities[1])
    assert found["classes"].rio.crs == crs
    assert found["classes"].rio.transform() == transform


def test_an_array_gives_the_map_of_its_file_bit_for_bit(array, fitted, mapped):
    same(geovit.classify(array, model=fitted, probabilities=True, device="cpu"), mapped)


@pytest.mark.parametrize("chunks", [{"band": 5, "y": 17, "x": 23}, {"band": -1, "y": 64, "x": 64}])
def test_a_lazy_array_gives_the_same_and_only_when_asked(array, fitted, mapped, chunks):
    read = []

    def noted(block):
        read.append(block.shape)
        return block

    lazy = array.chunk(chunks)
    lazy = lazy.copy(data=lazy.data.map_blocks(noted, meta=np.empty((0, 0, 0), array.dtype)))
    found = geovit.classify(lazy, model=fitted, probabilities=True, device="cpu")
    assert not read
    assert all(dask.is_dask_collection(layer) for layer in found.values())
    found["classes"][:2, :2].compute(scheduler="synchronous")
    assert read
    same(found, mapped)


def test_chunks_of_the_map_do_not_show_in_it(array, fitted, mapped, monkeypatch):
    monkeypatch.setattr("geovit.apps.hyperspectral.arrays._SMALLEST", 16)
    monkeypatch.setattr("geovit.apps.hyperspectral.arrays.cost_of", _small)
    found = geovit.classify(array.chunk({"y": 16, "x": 16}), model=fitted, probabilities=True, device="cpu")
    assert found["classes"].data.npartitions > 4
    whole = geovit.classify(array, model=fitted, probabilities=True, device="cpu")
    xarray.testing.assert_identical(found.compute(), whole)
    assert (found["classes"].values == mapped[0]).mean() > 0.999  # other squares are computed at once: rounding may differ


def _small(model, **_):
    from geovit.apps.hyperspectral.working import Cost

    return Cost(model.window * -(-16 // model.window), 0.0, 1024)


def test_other_orders_and_units_of_axes_are_the_same(array, fitted, mapped):
    turned = array.transpose("y", "x", "band").isel(band=slice(None, None, -1)).expand_dims("time")
    turned = turned.assign_coords(wavelength=("band", turned.wavelength.values / 1000, {"units": "um"}))
    same(geovit.classify(turned, model=fitted, probabilities=True, device="cpu"), mapped)


def test_masked_values_are_nodata(array, fitted, mapped):
    nodata = array.attrs["_FillValue"]
    masked = array.astype("float32").where(array != nodata)
    masked.attrs = {}
    same(geovit.classify(masked, model=fitted, probabilities=True, device="cpu"), mapped)


def test_classes_have_names_and_colours(array, fitted, model, tmp_path):
    found = geovit.classify(array, model=fitted, device="cpu")
    assert found.dtype == np.uint8
    assert found.attrs["class_names"] == [info.name for info in model.info.classes]
    assert found.attrs["class_colors"][0].startswith("#")
    assert found.rio.nodata == 0
    found.rio.to_raster(tmp_path / "map.tif")
    assert open_scene(tmp_path / "map.tif").grid.crs == array.rio.crs


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda a: a, {"model": None}, "an array is mapped with a model"),
        (lambda a: a, {"bounds": "0,0,1,1", "mask": "m.gpkg"}, "bounds, mask is for files"),
        (lambda a: a.rename(band="depth"), {}, r"axes \(depth: \d+, y: 50, x: 71\), expected one of bands"),
        (lambda a: xarray.concat([a, a], "time"), {}, "nothing else of several steps"),
        (lambda a: a.drop_vars("wavelength"), {}, "has no wavelengths"),
        (lambda a: a.isel(band=slice(0, 5)), {}, "lacks .* of the model's"),
        (lambda a: a.astype("complex64"), {}, "data type complex64"),
    ],
)
def test_what_cannot_be_mapped_is_said_in_one_line(array, fitted, change, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        geovit.classify(change(array), **({"model": fitted, "device": "cpu"} | options))
    assert "\n" not in str(caught.value)


def test_other_things_are_no_scene(fitted):
    with pytest.raises(TypeError, match=r"scene is a ndarray, expected a path or an xarray\.DataArray"):
        geovit.classify(np.ones((3, 4, 5)), model=fitted)
