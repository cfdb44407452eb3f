import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rio_cogeo import cog_validate

import geovit
from geovit.apps.cli import main
from geovit.apps.foundation.embedding import Embedder, Tiling, embed, token_grid
from geovit.apps.foundation.embedding_files import embed_files
from geovit.apps.foundation.features import parse_layers, place_features
from geovit.apps.foundation.images import codes
from geovit.apps.foundation.scenes import open_sensor_scene
from geovit.core.sensors.batch import SensorBatch
from geovit.core.sensors.encoder import EncoderConfig, build_encoder
from geovit.core.sensors.model import FoundationModel, save_model
from geovit.core.sensors.normalization import Normalization
from geovit.datasets import Grid
from geovit.datasets.sensors import sensor

PATCH = 8
S2 = sensor("sentinel-2-l2a")


def made(depth=2):
    torch.manual_seed(1)
    config = EncoderConfig(dim=32, depth=depth, heads=2, patch=PATCH)
    wavelengths = codes(S2.bands)
    values = torch.rand(1, len(S2.bands), 16, 16) * 0.2 + 0.1
    batch = SensorBatch(values, torch.ones_like(values, dtype=torch.bool), wavelengths, torch.tensor([10.0]), S2.name)
    return FoundationModel(encoder=build_encoder(config), config=config, normalization=Normalization.fitted([batch]))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "encoder.safetensors"
    save_model(path, made())
    return path


def write_scene(path, height, width, *, bands=12, hole=None, crs="EPSG:32633", tags=()):
    numbers = np.random.default_rng(0).integers(30, 3000, (bands, height, width)).astype(np.int16)
    if hole is not None:
        numbers[:, hole[0], hole[1]] = -9999
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": "int16", "nodata": -9999}
    with rasterio.open(path, "w", **profile, crs=crs, transform=Affine(10.0, 0.0, 4e5, 0.0, -10.0, 5.8e6)) as dst:
        dst.write(numbers)
        for band, wavelength in enumerate(tags, start=1):
            dst.update_tags(band, wavelength=wavelength, wavelength_units="nm")
    return path


@pytest.fixture
def scene(tmp_path):
    """No multiple of the patch, with two patches without data."""
    return write_scene(tmp_path / "scene.tif", 60, 101, hole=(slice(8, 16), slice(16, 32)))


def test_the_grid_is_the_scenes_with_larger_pixels(scene, model_file):
    found = embed(scene, model_file, sensor="S2L2A")
    assert found.values.shape == (8, 13, 32)
    assert found.grid == Grid(8, 13, rasterio.CRS.from_epsg(32633), Affine(80.0, 0.0, 4e5, 0.0, -80.0, 5.8e6))
    empty = np.isnan(found.values)
    assert empty[1, 2:4].all()
    assert empty.sum() == 2 * 32
    assert (found.sensor, found.patch, found.bands[:2]) == ("sentinel-2-l2a", PATCH, ("B01", "B02"))


def test_a_rotated_grid_keeps_its_corner():
    grid = Grid(16, 16, None, Affine(8.0, 3.0, 4e5, 3.0, -8.0, 5.8e6))
    coarse = token_grid(grid, 8)
    np.testing.assert_allclose(coarse.to_map([0, 2], [0, 2]), grid.to_map([0, 16], [0, 16]))


def test_one_tile_gives_what_the_model_gives(tmp_path, model_file):
    path = write_scene(tmp_path / "even.tif", 64, 96)
    found = embed(path, model_file, sensor="S2L2A")
    with rasterio.open(path) as src:
        values = torch.from_numpy(src.read().astype(np.float32) * np.float32(1e-4))[None]
    batch = SensorBatch(values, torch.ones_like(values, dtype=torch.bool), codes(S2.bands), torch.tensor([10.0]), S2.name)
    with torch.inference_mode():
        expected = made().encode(batch).places()[0]
    np.testing.assert_allclose(found.values, expected, atol=1e-5)


class _Local(torch.nn.Module):
    """Blocks that look at nothing but their own token."""

    def forward(self, x):
        return x + torch.tanh(x)


def test_tiles_of_an_encoder_without_context_equal_the_whole(scene):
    model = made()
    model.encoder.blocks = torch.nn.ModuleList([_Local()])
    model.encoder.position = _Nowhere()
    whole = embed(scene, model, sensor="S2L2A", tiling=Tiling(tile=256))
    for tiling in (Tiling(tile=16, halo=0), Tiling(tile=24, halo=8), Tiling(tile=40, halo=8)):
        tiled = embed(scene, model, sensor="S2L2A", tiling=tiling)
        np.testing.assert_allclose(tiled.values, whole.values, atol=1e-5)


class _Nowhere(torch.nn.Module):
    def forward(self, tokens):
        return torch.zeros_like(tokens.x[:1])


def test_tiles_differ_from_the_whole_by_context_only_and_cover_each_token_once(scene, model_file):
    embedder = Embedder(model_file, layer="last", tiling=Tiling(tile=32, halo=8), device="cpu", precision="fp32")
    seen = np.zeros((8, 13), dtype=int)
    for row, column, part in embedder.parts(open_sensor_scene(scene, "S2L2A")):
        seen[row : row + part.shape[0], column : column + part.shape[1]] += 1
    assert (seen == 1).all()
    tiled = embed(scene, model_file, sensor="S2L2A", tiling=Tiling(tile=32, halo=8)).values
    whole = embed(scene, model_file, sensor="S2L2A").values
    np.testing.assert_array_equal(np.isnan(tiled), np.isnan(whole))


@pytest.mark.parametrize(
    ("dtype", "stored", "tolerance"), [("float16", "float32", 2e-3), ("float32", "float32", 0), ("int8", "int8", None)]
)
def test_the_raster_holds_the_features(scene, model_file, tmp_path, dtype, stored, tolerance):
    expected = np.moveaxis(embed(scene, model_file, sensor="S2L2A").values, -1, 0)
    done = embed_files([str(scene)], model=model_file, sensor="S2L2A", out=tmp_path / "new", dtype=dtype, pca=True)
    target, colours = done.files[scene]
    assert target == tmp_path / "new" / "scene_embedding.tif"
    assert cog_validate(target, strict=True)[0]
    with rasterio.open(target) as src:
        assert (src.dtypes[0], src.count, src.crs.to_epsg()) == (stored, 32, 32633)
        assert src.transform == Affine(80.0, 0.0, 4e5, 0.0, -80.0, 5.8e6)
        values = src.read(masked=True).filled(0) * np.array(src.scales)[:, None, None]
        nodata = src.read_masks() == 0
        tags = src.tags()
        assert src.descriptions[3] == "feature 3"
        step = max(src.scales)
    np.testing.assert_array_equal(nodata, np.isnan(expected))
    bound = 0.5 * step + 1e-6 if tolerance is None else tolerance
    assert np.abs(values - np.nan_to_num(expected))[~nodata].max() <= bound
    assert (tags["GEOVIT_SENSOR"], tags["GEOVIT_PATCH"], len(tags["GEOVIT_MODEL_SHA256"])) == ("sentinel-2-l2a", "8", 64)
    assert tags["GEOVIT_BANDS"].startswith("B01,B02,")
    with rasterio.open(colours) as src:
        assert (src.count, src.dtypes[0], src.nodata, src.shape) == (3, "uint8", 0, (8, 13))
        assert ((src.read() == 0).all(0) == nodata[0]).all()


def test_files_are_replaced_only_when_asked_to_and_nothing_is_left_behind(scene, model_file, tmp_path):
    embed_files([str(scene)], model=model_file, sensor="S2L2A")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(FileExistsError, match="scene_embedding.tif exists: pass --overwrite"):
        embed_files([str(scene)], model=model_file, sensor="S2L2A")
    embed_files([str(scene)], model=model_file, sensor="S2L2A", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == before == ["scene.tif", "scene_embedding.tif"]


def test_wavelengths_of_the_file_do_without_a_sensor(tmp_path, model_file):
    path = write_scene(tmp_path / "spectra.tif", 16, 24, bands=5, tags=(450, 550, 650, 850, 1600))
    found = embed(path, model_file)
    assert found.values.shape == (2, 3, 32)
    assert np.isfinite(found.values).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sensor": "sentinel-7"}, "unknown sensor 'sentinel-7'"),
        ({"sensor": "sentinel-1-rtc"}, "12 bands without names, expected the 2 of sentinel-1-rtc"),
        ({}, "no wavelengths: name the sensor"),
        ({"sensor": "S2L2A", "layer": "7"}, "layer '7': allowed are 0..2, all and last"),
        ({"sensor": "S2L2A", "gsd": -1.0}, "gsd is -1, expected metres above 0"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(scene, model_file, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        embed(scene, model_file, **options)
    assert "\n" not in str(caught.value)


def test_a_model_without_the_modality_refuses_before_anything_is_written(tmp_path, model_file):
    path = tmp_path / "radar.tif"
    profile = {"driver": "GTiff", "count": 2, "height": 16, "width": 16, "dtype": "float32", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, transform=Affine(10.0, 0.0, 4e5, 0.0, -10.0, 5.8e6)) as dst:
        dst.write(np.random.default_rng(0).normal(-12, 3, (2, 16, 16)).astype(np.float32))
    with pytest.raises(ValueError, match=r"radar.tif: .*optical bands only"):
        embed_files([str(path)], model=model_file, sensor="S1RTC", out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_layers_side_by_side(model_file):
    model = made()
    values = torch.rand(1, 12, 16, 24)
    batch = SensorBatch(values, torch.ones_like(values, dtype=torch.bool), codes(S2.bands), torch.tensor([10.0]), S2.name)
    layers = parse_layers("0,1,last", model.encoder)
    assert layers == (0, 1, -1)
    assert parse_layers("all", model.encoder) == (0, 1, 2)
    found = place_features(model, batch, layers)
    assert found.shape == (1, 2, 3, 96)
    torch.testing.assert_close(found[..., 64:], model.encode(batch).places())
    assert found[..., :64].unflatten(-1, (2, 32)).mean(-1).abs().max() < 1e-5  # each normalised


def test_the_command_and_the_public_name(scene, model_file, tmp_path, capsys):
    common = ["embed", str(scene), "--model", str(model_file), "--sensor", "S2L2A", "--tiling.halo", "8", "--out", str(tmp_path)]
    assert main([*common, "--tiling.tile", "48"]) == 0
    assert "scene_embedding.tif" in capsys.readouterr().out
    assert main([*common, "--tiling.tile", "16"]) == 2
    assert "tile 16, halo 8" in capsys.readouterr().err
    assert geovit.embed is embed
