import dataclasses
import json
import warnings

import numpy as np
import pytest
import rasterio
import scipy.io
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning
from rio_cogeo import cog_validate

from geovit import __version__
from geovit.apps.hyperspectral import classify, fit_model, map_runs, training
from geovit.apps.hyperspectral.model import load_classifier
from geovit.datasets import open_scene, read_labels

OUTPUTS = [
    *("classes.tif", "classes.tif.aux.xml", "item.json", "model.safetensors", "probabilities.tif", "quicklook.png"),
    *("report.json", "run.json"),
]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as src:
            return src.read(), src.profile


@pytest.fixture(scope="module")
def learned(tiny):
    """The tiny recipe, trained long enough to map all classes."""
    return dataclasses.replace(tiny, training=dataclasses.replace(tiny.training, steps=60, batch=8, check_every=15))


@pytest.fixture(scope="module")
def done(files, learned, tmp_path_factory):
    out = tmp_path_factory.mktemp("done")
    return classify(
        str(files.scene), labels=str(files.labels), out=out, probabilities=True, quicklook=True, recipe=learned, device="cpu"
    )


@pytest.fixture(scope="module")
def out(done):
    return done.files["map"].parent


def test_all_that_was_asked_for_is_written_and_nothing_else(done, out):
    assert names(out) == [f"scene_{name}" for name in OUTPUTS]
    assert sorted(path.name for path in done.files.values()) == [f"scene_{name}" for name in OUTPUTS if "aux" not in name]


@pytest.mark.parametrize("kind", ["map", "probabilities"])
def test_maps_lie_on_exactly_the_scene_s_grid(done, files, kind):
    with rasterio.open(files.scene) as scene, rasterio.open(done.files[kind]) as mapped:
        assert (mapped.crs, mapped.transform, mapped.shape) == (scene.crs, scene.transform, scene.shape)


@pytest.mark.parametrize("kind", ["map", "probabilities"])
def test_maps_are_valid_cogs_that_read_the_same_tile_by_tile(done, kind):
    assert cog_validate(done.files[kind], strict=True, quiet=True) == (True, [], [])
    with rasterio.open(done.files[kind]) as src:
        whole = src.read()
        for _, window in src.block_windows(1):
            np.testing.assert_array_equal(src.read(window=window), whole[(slice(None), *window.toslices())])


def test_the_map_carries_its_classes(done, labels):
    with rasterio.open(done.files["map"]) as src:
        assert (src.count, src.dtypes, src.nodata) == (1, ("uint8",), 0)
        for info in labels.classes:
            assert src.colormap(1)[info.value][:3] == info.color
    assert read_labels(done.files["map"], open_scene(done.files["map"]).grid).classes == labels.classes


def test_nodata_in_is_nodata_out(done, scene):
    nodata = ~np.isfinite(scene.read()).all(0)
    values, _ = read(done.files["map"])
    np.testing.assert_array_equal(values[0] == 0, nodata)
    probabilities, profile = read(done.files["probabilities"])
    assert np.isnan(profile["nodata"])
    for band in probabilities:
        np.testing.assert_array_equal(np.isnan(band), nodata)
        assert ((band[~nodata] >= 0) & (band[~nodata] <= 1)).all()
    assert (probabilities[0][~nodata] >= 1 / 3).all()


def test_the_map_is_right_more_often_than_not(done, files, scene):
    truth, mapped = (read_labels(path, scene.grid).index for path in (files.truth, done.files["map"]))
    assert (truth == mapped)[truth >= 0].mean() > 0.6


def test_the_report_tells_all(done, labels):
    report = json.loads(done.files["report"].read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert report == json.loads(json.dumps(done.report))
    assert report["geovit"] == __version__
    assert (report["size"], report["crs"], report["seed"], report["bands"]) == ([50, 71], "EPSG:32633", 0, 23)
    assert report["bands_dropped"] == {"19": "no data"}
    assert report["labelled_pixels"] == {info.name: n for info, n in zip(labels.classes, labels.counts().tolist(), strict=True)}
    assert report["recipe"]["training"]["steps"] == 60
    assert 0 <= report["validation"]["accuracy"] <= 1
    assert "optimistic" in report["validation"]["note"]
    values, _ = read(done.files["map"])
    for row, info in zip(report["classes"], labels.classes, strict=True):
        assert (row["value"], row["name"], row["pixels"]) == (info.value, info.name, (values == info.value).sum())
        assert row["hectares"] == pytest.approx(row["pixels"] * 0.09, abs=0.01)
        assert row["share"] == pytest.approx(row["pixels"] / (values > 0).sum(), abs=1e-4)
    assert report["files"] == {kind: str(path) for kind, path in done.files.items()}


def test_the_model_maps_again_to_the_same(done, files, tmp_path):
    again = classify(str(files.scene), model=done.files["model"], out=tmp_path, probabilities=True, device="cpu")
    assert names(tmp_path) == [f"scene_{name}" for name in OUTPUTS if name.split(".")[0] not in ("model", "quicklook")]
    for kind in ("map", "probabilities"):
        np.testing.assert_array_equal(read(again.files[kind])[0], read(done.files[kind])[0])
    assert again.report["model"] == str(done.files["model"])


def test_fitting_alone_gives_the_model_of_classify(done, files, learned, tmp_path):
    fitted = fit_model(str(files.scene), str(files.labels), out=tmp_path, recipe=learned, device="cpu")
    assert names(tmp_path) == ["scene_model.safetensors", "scene_report.json"]
    ours, theirs = (load_classifier(result.files["model"]).state_dict() for result in (fitted, done))
    assert all((value == theirs[name]).all() for name, value in ours.items())


def test_without_labels_or_model_the_map_says_that_it_is_unsupervised(files, scene, tmp_path, caplog):
    result = classify(str(files.scene), clusters=4, out=tmp_path, quicklook=True)
    assert "this is an unsupervised map" in caplog.text
    assert result.report["method"].startswith("unsupervised")
    assert names(tmp_path) == [f"scene_{name}" for name in OUTPUTS if name.split(".")[0] not in ("model", "probabilities")]
    values, _ = read(result.files["map"])
    np.testing.assert_array_equal(values[0] == 0, ~np.isfinite(scene.read()).all(0))
    classes = read_labels(result.files["map"], scene.grid).classes
    assert [info.name for info in classes] == [f"cluster {k}" for k in (1, 2, 3, 4)]


def test_values_of_the_labels_stay_their_values_in_the_map(files, tiny, tmp_path, write_labels):
    places = {1: (slice(5, 9), slice(20, 30)), 10: (slice(20, 24), slice(30, 40)), 300: (slice(40, 44), slice(30, 40))}
    labels = write_labels(tmp_path / "l.tif", places, alone=True)
    table = tmp_path / "names.csv"
    table.write_text("value,name,color\n10,Wald [alt],#102030\n300,Moor,#405060\n")
    result = classify(str(files.scene), labels=str(labels), classes=table, out=tmp_path, recipe=tiny, device="cpu")
    values, profile = read(result.files["map"])
    assert profile["dtype"] == "uint16"
    assert set(np.unique(values)) <= {0, 1, 10, 300}
    assert [info.value for info in load_classifier(result.files["model"]).info.classes] == [1, 10, 300]
    assert [row["name"] for row in result.report["classes"]] == ["class 1", "Wald [alt]", "Moor"]


@pytest.mark.parametrize("kind", ["map", "model", "probabilities", "quicklook", "report"])
def test_existing_results_are_found_before_any_work(files, done, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("fitted first"))
    (tmp_path / done.files[kind].name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"{done.files[kind].name} exists: pass --overwrite"):
        classify(str(files.scene), labels=str(files.labels), out=tmp_path, probabilities=True, quicklook=True)
    assert names(tmp_path) == [done.files[kind].name]


@pytest.mark.parametrize("existing", [True, False])
def test_a_failure_at_the_last_file_changes_no_result_and_can_be_gone_on_with(files, done, tmp_path, monkeypatch, existing):
    old = {path.name: b"old" for path in done.files.values()} if existing else {}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)

    def full(*_, **__):
        raise OSError("no space left")

    options = {"model": done.files["model"], "out": tmp_path, "probabilities": True, "quicklook": True, "device": "cpu"}
    with monkeypatch.context() as patch:
        patch.setattr(map_runs, "write_text_atomic", full)
        with pytest.raises(OSError, match="no space left"):
            classify(str(files.scene), **options, overwrite=existing)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == old
    assert names(tmp_path) == sorted([*old, ".scene_classes.tif.unfinished"])
    classify(str(files.scene), **options, overwrite=existing, resume=True)
    for kind in ("map", "probabilities"):
        assert (tmp_path / done.files[kind].name).read_bytes() == done.files[kind].read_bytes()
    assert ".scene_classes.tif.unfinished" not in names(tmp_path)


def test_overwriting_replaces(files, done, tmp_path):
    (tmp_path / "scene_classes.tif").write_text("old")
    result = classify(str(files.scene), model=done.files["model"], out=tmp_path, overwrite=True)
    np.testing.assert_array_equal(read(result.files["map"])[0], read(done.files["map"])[0])


def test_labels_are_not_overwritten_by_the_map_made_of_them(files, tmp_path, write_labels):
    labels = write_labels(tmp_path / "scene_classes.tif", {})
    before = labels.read_bytes()
    with pytest.raises(ValueError, match=r"scene_classes\.tif is an input and would be overwritten"):
        classify(str(files.scene), labels=str(labels), out=tmp_path, overwrite=True)
    assert labels.read_bytes() == before


def test_a_scene_of_other_bands_is_refused(done, tmp_path, data_dir):
    envi = str(data_dir / "hyperspectral/gamsberg_envi/cubus_gamsberg_subset")
    with pytest.raises(ValueError, match="lacks .* of the model's 23 bands"):
        classify(envi, model=done.files["model"], out=tmp_path)
    mat = str(data_dir / "hyperspectral/salinas_a/SalinasA_corrected.mat")
    with pytest.raises(ValueError, match="has no wavelengths, the model needs 23 bands at 420..2450 nm"):
        classify(mat, model=done.files["model"], out=tmp_path)
    assert names(tmp_path) == []


def test_matlab_arrays_are_mapped_without_a_position(scene, labels, tiny, tmp_path):
    cube = np.nan_to_num(scene.read().transpose(1, 2, 0))
    scipy.io.savemat(tmp_path / "a.b.mat", {"cube": cube, "mask": cube[:, :, :2]})
    scipy.io.savemat(tmp_path / "gt.mat", {"gt": (labels.index + 1).astype(np.uint8)})
    result = classify(
        f"{tmp_path}/a.b.mat:cube", labels=str(tmp_path / "gt.mat"), out=tmp_path, recipe=tiny, device="cpu", probabilities=True
    )
    assert result.files["map"].name == "a.b_classes.tif"
    values, profile = read(result.files["map"])
    assert values.shape == (1, *scene.grid.shape)
    assert (profile["crs"], profile["transform"]) == (None, Affine.identity())
    assert all(row["hectares"] is None for row in result.report["classes"])
    assert result.report["wavelengths_nm"] is None


def test_a_real_envi_scene_is_grouped(tmp_path, data_dir):
    envi = data_dir / "hyperspectral/gamsberg_envi/cubus_gamsberg_subset"
    result = classify(f"{envi}.hdr", clusters=3, out=tmp_path, quicklook=True)
    assert result.files["map"].name == "cubus_gamsberg_subset_classes.tif"
    values, _ = read(result.files["map"])
    assert set(np.unique(values)) == {1, 2, 3}


def test_a_real_satellite_scene_is_mapped(tmp_path, data_dir, tiny):
    folder = data_dir / "hyperspectral/enmap_potsdam"
    recipe = dataclasses.replace(tiny, training=dataclasses.replace(tiny.training, steps=100, batch=8, check_every=20))
    result = classify(str(folder / "scene.tif"), labels=str(folder / "labels.tif"), out=tmp_path, recipe=recipe, device="cpu")
    values, profile = read(result.files["map"])
    source = open_scene(folder / "scene.tif")
    assert (profile["crs"], profile["transform"]) == (source.grid.crs, source.grid.transform)
    np.testing.assert_array_equal(values[0] == 0, ~np.isfinite(source.read()).all(0))
    labels = read_labels(folder / "labels.tif", source.grid)
    assert (values[0] == labels.index + 1)[labels.index >= 0].mean() > 0.6, "on the labels it was fitted to"
    assert all("nodata" not in row["name"] for row in result.report["classes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "l.tif", "model": "m"}, "both labels and a model were given"),
        ({"probabilities": True}, "probabilities need labels or a model"),
        ({"clusters": 1}, "clusters is 1, allowed are 2..255"),
        ({"clusters": 256}, "clusters is 256"),
        ({"labels": ""}, "neither a raster nor a vector file"),
    ],
)
def test_options_that_do_not_go_together_are_refused(files, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        classify(str(files.scene), out=tmp_path, **options)
    assert names(tmp_path) == []
