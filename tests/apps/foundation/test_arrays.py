"""Arrays of xarray in, features as arrays of xarray out."""

import dask
import numpy as np
import pytest
import rasterio
import rioxarray
import torch
from affine import Affine

import geovit
from geovit.apps.foundation.embedder import Tiling
from geovit.core.sensors.batch import SensorBatch
from geovit.core.sensors.encoder import EncoderConfig, build_encoder
from geovit.core.sensors.model import FoundationModel, save_model
from geovit.core.sensors.normalization import Normalization
from geovit.datasets.sensors import sensor

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # affine's, at rioxarray's use of it

PATCH = 8
S2 = sensor("sentinel-2-l2a")
TILING = Tiling(tile=32, halo=8)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    torch.manual_seed(1)
    config = EncoderConfig(dim=16, depth=1, heads=2, patch=PATCH)
    values = torch.rand(1, 12, 16, 16) * 0.2 + 0.1
    codes = torch.tensor([band.wavelength for band in S2.bands])
    batch = SensorBatch(values, torch.ones_like(values, dtype=torch.bool), codes, torch.tensor([10.0]), S2.name)
    path = tmp_path_factory.mktemp("model") / "encoder.safetensors"
    model = FoundationModel(encoder=build_encoder(config), config=config, normalization=Normalization.fitted([batch]))
    save_model(path, model)
    return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """No multiple of the patch, with a hole."""
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    numbers = np.random.default_rng(0).integers(30, 3000, (12, 61, 83)).astype(np.int16)
    numbers[:, 8:16, 16:32] = -9999
    profile = {"driver": "GTiff", "count": 12, "height": 61, "width": 83, "dtype": "int16", "nodata": -9999}
    with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=Affine(10.0, 0.0, 4e5, 0.0, -10.0, 5.8e6)) as dst:
        dst.write(numbers)
        dst.descriptions = [band.name for band in S2.bands]
    return path


@pytest.fixture(scope="module")
def array(scene):
    with rioxarray.open_rasterio(scene) as opened:
        return opened.load()


@pytest.fixture(scope="module")
def expected(scene, model_file):
    return geovit.embed(scene, model_file, sensor=S2.name, tiling=TILING, device="cpu")


def same(found, expected):
    assert found.dims == ("feature", "y", "x")
    np.testing.assert_array_equal(found.values, np.moveaxis(expected.values, -1, 0))
    assert found.rio.crs == expected.grid.crs
    assert found.rio.transform() == expected.grid.transform
    np.testing.assert_array_equal(found["x"].values[:2], [400_040, 400_120])
    assert found.sizes["x"] == len(found["x"]) == 11


def test_an_array_gives_the_features_of_its_file(array, model_file, expected):
    same(geovit.embed(array, model_file, sensor=S2.name, tiling=TILING, device="cpu"), expected)


def test_a_lazy_array_gives_the_same_and_only_when_asked(array, model_file, expected):
    def refused(block):
        raise AssertionError("computed before it was asked for")

    lazy = array.chunk({"band": 5, "y": 17, "x": 23})
    untouched = lazy.copy(data=lazy.data.map_blocks(refused, dtype=lazy.dtype, meta=np.empty((0, 0, 0), lazy.dtype)))
    assert geovit.embed(untouched, model_file, sensor=S2.name, tiling=TILING, device="cpu").chunks is not None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of products, whose last digits depend on it
    try:
        with dask.config.set(scheduler="synchronous"):
            found = geovit.embed(lazy, model_file, sensor=S2.name, tiling=TILING, device="cpu")
            at_once = geovit.embed(array, model_file, sensor=S2.name, tiling=TILING, device="cpu")
            np.testing.assert_array_equal(found.values, at_once.values)
            np.testing.assert_array_equal(found[:, 3:5, 4:6].values, at_once[:, 3:5, 4:6].values)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(found.values, np.moveaxis(expected.values, -1, 0), atol=1e-6)


def test_what_is_cut_out_lies_where_it_was(array, model_file):
    part = geovit.embed(array[:, 16:56, 8:40], model_file, sensor=S2.name, device="cpu")
    assert part.rio.transform() == Affine(80.0, 0.0, 400_080, 0.0, -80.0, 5_799_840)


def test_other_orders_of_axes_and_bands_are_the_same(array, model_file, expected):
    turned = array.transpose("x", "band", "y")[:, ::-1]
    turned = turned.assign_attrs(long_name=array.attrs["long_name"][::-1])
    found = geovit.embed(turned, model_file, sensor=S2.name, tiling=TILING, device="cpu")
    np.testing.assert_allclose(found.values, np.moveaxis(expected.values, -1, 0), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda a: a, {}, "no wavelengths: name the sensor"),
        (lambda a: a[:5].drop_attrs(), {"sensor": "sentinel-2-l2a"}, "5 bands without names, expected the 12"),
        (lambda a: a.rename(y="p"), {"sensor": "sentinel-2-l2a"}, "expected one of rows named y"),
        (lambda a: a, {"sensor": "sentinel-2-l2a", "gsd": -1.0}, "gsd is -1"),
        (lambda a: a, {"sensor": "sentinel-7"}, "sentinel-7"),
    ],
)
def test_what_cannot_be_embedded_is_said_in_one_line(array, model_file, change, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        geovit.embed(change(array), model_file, **options)
    assert "\n" not in str(caught.value)


def test_other_things_are_no_scene(model_file):
    with pytest.raises(TypeError, match=r"list, expected a path or an xarray\.DataArray"):
        geovit.embed([1, 2], model_file)


def test_wavelengths_do_without_a_sensor(array, model_file):
    told = array.assign_coords(wavelength=("band", [band.wavelength / 1000 for band in S2.bands], {"units": "µm"}))
    found = geovit.embed(told.where(told != -9999) / 10_000, model_file, device="cpu")
    assert found.attrs["sensor"] == "unnamed"
    assert np.isfinite(found.values).mean() > 0.9
