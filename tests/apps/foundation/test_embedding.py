import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from rio_cogeo import cog_validate
from shapely.geometry import box

import geovit
from geovit.apps.cli import main
from geovit.apps.foundation.embedder import Embedder, Tiling
from geovit.apps.foundation.embedding import embed, token_grid
from geovit.apps.foundation.embedding_files import embed_files
from geovit.apps.foundation.features import parse_layers, place_features
from geovit.apps.foundation.images import codes
from geovit.core.sensors.batch import SensorBatch
from geovit.core.sensors.encoder import EncoderConfig, build_encoder
from geovit.core.sensors.model import FoundationModel, save_model
from geovit.core.sensors.normalization import Normalization
from geovit.datasets import Grid, open_image
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


def test_tiles_differ_from_the_whole_by_context_only(scene, model_file):
    tiled = embed(scene, model_file, sensor="S2L2A", tiling=Tiling(tile=32, halo=8)).values
    whole = embed(scene, model_file, sensor="S2L2A").values
    np.testing.assert_array_equal(np.isnan(tiled), np.isnan(whole))
    assert np.nanmax(np.abs(tiled - whole)) > 1e-3


def steps(values):
    """Mean differences of neighbours, by the line between two columns of tokens."""
    return np.sqrt(np.nanmean(np.square(np.diff(values, axis=1)), axis=(0, 2)))


class _Ramp(torch.nn.Module):
    """The place in the tile, as it rises from left to right."""

    def forward(self, tokens):
        return 0.1 * torch.arange(tokens.x.shape[3])[:, None].expand(tokens.x[:1].shape)


def test_tiles_fade_into_each_other_so_that_no_seam_is_seen(tmp_path, monkeypatch):
    """On even ground features tell of nothing but the place in the tile."""
    path = write_scene(tmp_path / "even.tif", 128, 512)
    with rasterio.open(path, "r+") as dst:
        dst.write(np.full((12, 128, 512), 1000, np.int16))
    model, tiling = made(), Tiling(tile=128, halo=32)
    model.encoder.blocks, model.encoder.norm = torch.nn.ModuleList([]), torch.nn.Identity()
    model.encoder.position = _Ramp()
    faded = steps(embed(path, model, sensor="S2L2A", tiling=tiling).values)
    monkeypatch.setattr(Embedder, "plan", lambda self, opened, plan=Embedder.plan: replace(plan(self, opened), fade=0))
    cut = steps(embed(path, model, sensor="S2L2A", tiling=tiling).values)
    assert np.median(cut) < 0.11
    assert cut.max() > 0.6, "a hard cut shows"
    assert faded.max() < 0.11


@pytest.mark.parametrize(
    ("dtype", "stored", "tolerance"), [("float16", "float32", 2e-3), ("float32", "float32", 0), ("int8", "int8", None)]
)
def test_the_raster_holds_the_features(scene, model_file, tmp_path, dtype, stored, tolerance):
    expected = np.moveaxis(embed(scene, model_file, sensor="S2L2A").values, -1, 0)
    done = embed_files([str(scene)], model=model_file, sensor="S2L2A", out=tmp_path / "new", dtype=dtype, pca=True)
    target, colours, picture = done.files[scene]
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
        drawn = src.read()
        assert ((drawn == 0).all(0) == nodata[0]).all()
    shown = np.moveaxis(open_image(picture).pixels, -1, 0)
    assert max(shown.shape[1:]) == 39 * 13  # a token is a square, large enough to be seen
    np.testing.assert_array_equal(shown[:, ::39, ::39], drawn)


def test_the_folder_of_a_training_is_its_model(scene, model_file, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(FileNotFoundError, match="run has no last.safetensors: expected an encoder"):
        embed(scene, run, sensor="S2L2A")
    shutil.copy(model_file, run / "last.safetensors")
    embed_files([str(scene)], model=run, sensor="S2L2A", out=tmp_path / "out")
    np.testing.assert_array_equal(embed(scene, run, sensor="S2L2A").values, embed(scene, model_file, sensor="S2L2A").values)


def test_files_are_replaced_only_when_asked_to_and_nothing_is_left_behind(scene, model_file, tmp_path):
    embed_files([str(scene)], model=model_file, sensor="S2L2A")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(FileExistsError, match="scene_embedding.tif exists: pass --overwrite"):
        embed_files([str(scene)], model=model_file, sensor="S2L2A")
    embed_files([str(scene)], model=model_file, sensor="S2L2A", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert before == ["scene.tif", "scene_embedding.tif", "scene_embedding_item.json", "scene_embedding_run.json"]


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


def test_a_card_repeats_the_run_to_the_same_bytes(scene, model_file, tmp_path, capsys):
    tiling = ["--tiling.tile", "48", "--tiling.halo", "8"]
    first, again = tmp_path / "first", tmp_path / "again"
    assert main(["embed", str(scene), "--model", str(model_file), "--sensor", "S2L2A", *tiling, "--out", str(first)]) == 0
    assert (first / "scene_embedding_item.json").exists()
    card = first / "scene_embedding_run.json"
    assert main(["embed", "--from-card", str(card), "--out", str(again)]) == 0, capsys.readouterr().err
    assert (again / "scene_embedding.tif").read_bytes() == (first / "scene_embedding.tif").read_bytes()
    write_scene(scene, 60, 101)
    assert main(["embed", "--from-card", str(card), "--out", str(tmp_path / "other")]) == 2
    assert "the run cannot be repeated: " in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_without_a_model_it_is_the_encoder_of_the_package(scene, tmp_path, capsys):
    assert main(["embed", str(scene), "--sensor", "S2L2A", "--out", str(tmp_path / "a")]) == 0, capsys.readouterr().err
    card = tmp_path / "a" / "scene_embedding_run.json"
    assert main(["embed", "--from-card", str(card), "--out", str(tmp_path / "b")]) == 0, capsys.readouterr().err
    first, again = ((tmp_path / folder / "scene_embedding.tif").read_bytes() for folder in "ab")
    assert first == again
    np.testing.assert_array_equal(
        embed(str(scene), sensor="S2L2A").values, embed(str(scene), "default", sensor="S2L2A", tiling=Tiling(tile=96)).values
    )


def test_layers_of_an_image_that_lacks_bands_are_those_of_the_bands_that_it_has():
    torch.manual_seed(0)
    values = torch.rand(1, 3, 16, 16)
    batch = SensorBatch(values, torch.ones_like(values, dtype=torch.bool), codes(S2.bands)[1:4], torch.tensor([10.0]), S2.name)
    config = EncoderConfig(tokenizer="channel", dim=32, depth=2, heads=2, patch=PATCH)
    model = FoundationModel(encoder=build_encoder(config), config=config, normalization=Normalization.fitted([batch]))
    valid = torch.ones_like(values, dtype=torch.bool)
    valid[:, 1] = False
    layers = parse_layers("0,1,last", model.encoder)
    fewer = SensorBatch(values[:, ::2], valid[:, ::2], batch.wavelengths[::2], batch.gsd, batch.sensor)
    found = place_features(model, SensorBatch(values, valid, batch.wavelengths, batch.gsd, batch.sensor), layers)
    torch.testing.assert_close(found, place_features(model, fewer, layers))


@pytest.mark.parametrize("mixer", ["window", "less"])
def test_encoders_on_grids_have_no_layers_but_the_last(mixer):
    encoder = build_encoder(EncoderConfig(tokenizer="channel", mixer=mixer, dim=32, depth=2, heads=2, patch=PATCH))
    assert parse_layers("last", encoder) == (-1,)
    with pytest.raises(ValueError, match="allowed is last"):
        parse_layers("1", encoder)


def test_bounds_give_what_the_whole_scene_has_there(tmp_path, scene, model_file):
    options = {"model": model_file, "sensor": "S2L2A", "tiling": Tiling(tile=32, halo=8), "dtype": "float32"}
    embed_files([str(scene)], out=tmp_path / "whole", **options)
    # Columns 30 to 70 and rows 17 to 44: tokens 3 to 8, and 2 to 5.
    embed_files([str(scene)], out=tmp_path / "part", bounds="400300,5799560,400700,5799830", **options)
    with rasterio.open(tmp_path / "whole" / "scene_embedding.tif") as src:
        expected, transform = src.read()[:, 2:6, 3:9], src.transform
    with rasterio.open(tmp_path / "part" / "scene_embedding.tif") as src:
        np.testing.assert_array_equal(src.read(), expected)
        assert src.transform == transform @ Affine.translation(3, 2)


def write_polygons(path, polygons):
    pyogrio.raw.write(
        path, shapely.to_wkb(polygons), field_data=[], fields=[], geometry_type="Polygon", crs="EPSG:32633", driver="GPKG"
    )


def test_a_mask_leaves_tokens_out_and_changes_no_other(tmp_path, scene, model_file):
    write_polygons(tmp_path / "area.gpkg", [box(400160, 5799800, 400640, 5799999)])
    options = {"model": model_file, "sensor": "S2L2A", "dtype": "float32"}
    embed_files([str(scene)], out=tmp_path / "masked", mask=str(tmp_path / "area.gpkg"), **options)
    with rasterio.open(tmp_path / "masked" / "scene_embedding.tif") as src:
        masked = np.moveaxis(src.read(), 0, -1)
    whole = embed(scene, model_file, sensor="S2L2A").values
    inside = np.zeros(whole.shape[:2], bool)
    inside[0:2, 2:8] = True  # columns 16 to 64, rows 0 to 20: of the third row of tokens half lies inside
    inside[2, 2:8] = True
    np.testing.assert_allclose(masked[inside], whole[inside], atol=1e-6)
    assert np.isnan(masked[~inside]).all()


def test_a_plan_is_told_and_nothing_is_written(scene, model_file, tmp_path, capsys):
    command = ["embed", str(scene), "--model", str(model_file), "--sensor", "S2L2A", "--out", str(tmp_path / "new"), "--plan"]
    assert main(command) == 0
    assert "GB at the peak" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene.tif"]
    assert main([*command, "--max_memory", "0.001"]) == 2
    assert "tiles of 256 pixels need" in capsys.readouterr().err


def test_a_scene_without_data_leaves_nothing_behind(tmp_path, model_file):
    path = write_scene(tmp_path / "empty.tif", 32, 32, hole=(slice(None), slice(0, 30)))
    with pytest.raises(ValueError, match="no token has enough pixels with data"):
        embed_files(
            [str(path)], model=model_file, sensor="S2L2A", tiling=Tiling(valid=1.0), bounds="400000,5799680,400160,5800000"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["empty.tif"]


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, model_file):
    scene = write_scene(tmp_path / "scene.tif", 160, 200, hole=(slice(50, 90), slice(80, 150)))
    options = ["--model", model_file, "--sensor", "S2L2A", "--dtype", "int8", "--pca", "true"]
    options += ["--tiling.tile", 32, "--tiling.halo", 8, "--device", "cpu"]
    command = ["embed", *map(str, [scene, *options])]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "out"
    killed = subprocess.Popen(
        [sys.executable, "-m", "geovit", *command, "--out", str(out)],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    journal = out / ".scene_embedding.tif.unfinished" / "journal"
    while not (journal.exists() and journal.read_bytes().count(b'"part"') >= 20):
        assert killed.poll() is None, killed.stderr.read().decode()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert [path.name for path in out.iterdir()] == [".scene_embedding.tif.unfinished"]
    assert main([*command, "--out", str(out)]) == 2
    assert main([*command, "--out", str(out), "--resume"]) == 0
    for name in ("scene_embedding.tif", "scene_pca.tif", "scene_pca.png"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
