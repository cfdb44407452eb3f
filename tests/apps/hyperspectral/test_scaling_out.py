"""`geovit classify` on processes of its own, on a scene of several parts."""

import dataclasses

import numpy as np
import pytest
import rasterio

from geovit.apps.hyperspectral import classify, fit_model

RESULTS = ("scene_classes.tif", "scene_probabilities.tif")


@pytest.fixture(scope="module")
def model(files, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    learned = dataclasses.replace(tiny, training=dataclasses.replace(tiny.training, steps=30, batch=8, check_every=15))
    return fit_model(str(files.scene), str(files.labels), out=out, recipe=learned, device="cpu").files["model"]


@pytest.fixture(scope="module")
def large(files, tmp_path_factory):
    """The small scene many times over, mirrored, with a hole."""
    path = tmp_path_factory.mktemp("large") / "scene.tif"
    with rasterio.open(files.scene) as small:
        values, profile = small.read(), small.profile
        tags = [small.tags(band) for band in small.indexes]
        descriptions, more = small.descriptions, small.tags()
    repeats = [-(-size // n) for size, n in zip((540, 1060), values.shape[1:], strict=True)]
    values = np.pad(values, [(0, 0), *((0, n * (r - 1)) for n, r in zip(values.shape[1:], repeats, strict=True))], mode="reflect")
    values = values[:, :540, :1060]
    values[:, 100:200, 500:700] = np.nan if values.dtype.kind == "f" else profile["nodata"]
    profile |= {"height": 540, "width": 1060, "tiled": True, "blockxsize": 256, "blockysize": 256}
    with rasterio.open(path, "w", **profile) as dst:
        dst.write(values)
        dst.update_tags(**more)
        for band, (tag, name) in enumerate(zip(tags, descriptions, strict=True), 1):
            dst.update_tags(band, **tag)
            dst.set_band_description(band, name or "")
    return path


@pytest.mark.slow
def test_processes_write_the_bytes_that_threads_write(large, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"model": model, "probabilities": True, "device": "cpu"}
    here = classify(str(large), **options, out="here")
    there = classify(str(large), **options, out="there", dask="local:2")
    assert here.report["classes"] == there.report["classes"]
    for name in RESULTS:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "there"]
