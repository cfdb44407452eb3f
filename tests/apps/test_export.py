import json

import numpy as np
import openvino
import pytest
import torch
from PIL import Image

from geovit.apps.cli import main
from geovit.apps.export import export
from geovit.apps.hyperspectral.model import Classifier, ModelInfo, load_classifier
from geovit.apps.hyperspectral.recipe import Recipe, TrainingConfig
from geovit.apps.hyperspectral.spectral_swin import SpectralSwinConfig
from geovit.apps.medical.exporting import exportable
from geovit.apps.medical.model import new_segmenter, save_segmenter
from geovit.apps.medical.models import open_segmenter, read_plan
from geovit.apps.medical.networks import NetworkConfig
from geovit.apps.medical.plan import plan_from_dict
from geovit.apps.medical.sliding import Slider
from geovit.apps.restoration.compact import Compact
from geovit.apps.restoration.models import open_restorer
from geovit.apps.restoration.weights import architecture_of, save_restorer
from geovit.core.engines import open_exported
from geovit.core.engines.onnx import OnnxEngine
from geovit.core.export import formats
from geovit.core.sensors.encoder import EncoderConfig, build_encoder
from geovit.core.sensors.model import FoundationModel, save_model
from geovit.core.sensors.normalization import Normalization
from geovit.datasets import ClassInfo


@pytest.fixture(scope="module")
def compact(tmp_path_factory):
    torch.manual_seed(0)
    network = Compact(2, width=8, depth=2).eval()
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    save_restorer(path, network, architecture_of(network), {"licence": "CC0"})
    return path


@pytest.fixture(scope="module")
def compact_onnx(compact, tmp_path_factory):
    return export(str(compact), out=tmp_path_factory.mktemp("exported") / "tiny.onnx").files[0]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    torch.manual_seed(0)
    recipe = Recipe(
        training=TrainingConfig(members=1),
        spectral_swin=SpectralSwinConfig(dim=8, depth=1, heads=2, channels=(2, 4)),
    )
    classes = tuple(ClassInfo(value, f"class {value}", (value, 0, 0)) for value in (3, 7, 9))
    model = Classifier(ModelInfo("0", 24, [400.0 + 20 * i for i in range(24)], classes, recipe, {}))
    spectra, targets = torch.rand(3, 100, 24), torch.arange(100) % 3
    model.members[0].transform.fit(spectra[0])
    model.members[0].discriminant.fit(spectra[0], targets)
    model.members[0].kernel.fit(spectra, targets).radius = 2  # the largest window
    path = tmp_path_factory.mktemp("models") / "land.safetensors"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    torch.manual_seed(0)
    told = read_plan("btcv").plan.to_dict()
    plan = plan_from_dict({**told, "targets": told["targets"][:2], "roi": [16, 16, 16], "spacing": None})
    made = new_segmenter(NetworkConfig(name="monai_unet", arguments={"channels": [4, 8], "strides": [2]}), plan)
    made.network.eval()
    path = tmp_path_factory.mktemp("models") / "organs.safetensors"
    save_segmenter(path, made)
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    config = EncoderConfig(dim=8, depth=1, heads=2, patch=4)
    scale = Normalization(2)
    scale.wavelengths, scale.mean, scale.deviation = torch.tensor([400.0, 2400.0]), torch.tensor([0.1, 0.2]), torch.ones(2)
    model = FoundationModel(
        encoder=build_encoder(config), config=config, normalization=scale, facts={"sensors": ["sentinel-2-l2a"]}
    )
    path = tmp_path_factory.mktemp("models") / "encoder.safetensors"
    save_model(path, model)
    return path


def image(path, size=(21, 33)):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_onnx_file_restores_as_the_network_does(compact, compact_onnx, tmp_path):
    source = image(tmp_path / "a.png")
    for name, weights, more in (
        ("torch", compact, []),
        ("onnx", compact_onnx, []),
        ("ov", compact_onnx, ["--engine", "openvino"]),
    ):
        assert (
            main(["restore", str(source), "--weights", str(weights), "--out", str(tmp_path / name), "--tile", "16", *more]) == 0
        )
    made = {name: np.asarray(Image.open(tmp_path / name / "a_x2.png")).astype(int) for name in ("torch", "onnx", "ov")}
    assert made["torch"].shape == (42, 66, 3)
    assert np.abs(made["onnx"] - made["torch"]).max() <= 1  # of 255: a rounding that falls the other way
    assert np.abs(made["ov"] - made["torch"]).max() <= 1


def test_of_networks_of_several_outputs_the_first_is_exported(tmp_path):
    torch.manual_seed(0)
    config = NetworkConfig(name="monai_unet_plus_plus", arguments={"features": [4, 4, 8, 8, 8, 4]})
    made = new_segmenter(config, plan_from_dict({**read_plan("btcv").plan.to_dict(), "roi": [32, 32, 32], "spacing": None}))
    save_segmenter(tmp_path / "nested.safetensors", made)
    x = torch.randn(1, 1, 32, 32, 32)
    traced = torch.export.export(exportable(tmp_path / "nested.safetensors").module, (x,))
    torch.testing.assert_close(traced.module()(x), made.network.eval()(x))


def test_openvino_file_tells_what_it_is(compact, tmp_path):
    report = export(str(compact), format="openvino", out=tmp_path / "tiny.xml")
    assert [file.name for file in report.files] == ["tiny.xml", "tiny.bin"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.bin", "tiny.xml"]
    told = json.loads(openvino.Core().read_model(tmp_path / "tiny.xml").get_rt_info(["geovit"]).astype(str))
    assert told["app"] == "restoration"
    assert told["about"]["licence"] == "CC0"
    restorer = open_restorer(tmp_path / "tiny.xml")
    assert (restorer.network.scale, restorer.network.in_channels, restorer.engine) == (2, 3, "openvino")
    x = torch.rand(1, 3, 19, 11)
    expected = open_restorer(compact).network(x)
    assert torch.allclose(restorer.network(x), expected, atol=1e-5)


def test_pt2_file_is_a_program_of_pytorch_alone(compact, tmp_path):
    export(str(compact), format="pt2", out=tmp_path / "tiny.pt2")
    told = {"geovit": ""}
    program = torch.export.load(tmp_path / "tiny.pt2", extra_files=told)
    assert json.loads(told["geovit"])["model"] == "compact"
    assert not any("geovit" in str(node.target) for node in program.graph.nodes)
    x = torch.rand(2, 3, 9, 30)
    assert torch.allclose(program.module(check_guards=False)(x), open_restorer(compact).network(x), atol=1e-5)


def test_pt2_file_is_not_read(compact, tmp_path, capsys):
    (tmp_path / "a.pt2").write_bytes(b"")
    assert main(["restore", str(image(tmp_path / "a.png")), "--weights", str(tmp_path / "a.pt2")]) == 2
    assert "unpickle" in capsys.readouterr().err


def test_packaged_model_by_name(tmp_path):
    report = export("compact_x2", out=tmp_path / "a.onnx")
    assert report.checked.share < 1e-5
    assert len({size[1:] for size in report.checked.sizes}) == 3


def test_wrong_program_is_not_kept(compact, tmp_path, monkeypatch, capsys):
    run = OnnxEngine.run
    monkeypatch.setattr(OnnxEngine, "run", lambda self, values: run(self, values) * 1.001)
    assert main(["export", str(compact), "--out", str(tmp_path / "a.onnx")]) == 2
    assert "differs from PyTorch" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_classifier_maps_as_before(classifier, tmp_path):
    export(str(classifier), out=tmp_path / "land.onnx")
    own, exported = load_classifier(classifier), load_classifier(tmp_path / "land.onnx")
    assert (exported.window, exported.halo, exported.info) == (own.window, own.halo, own.info)
    x = torch.rand(1, 24, 12, 20)
    x[0, :, 3, 4] = torch.nan
    with torch.no_grad():
        assert torch.allclose(exported(x), own(x), atol=1e-5)
    assert torch.equal(exported.members[0].transform.band_mean, own.members[0].transform.band_mean)


def test_segmenter_keeps_its_plan(segmenter, tmp_path):
    export(str(segmenter), out=tmp_path / "organs.onnx")
    own, exported = open_segmenter(segmenter), open_segmenter(tmp_path / "organs.onnx")
    assert exported.plan == own.plan
    x = torch.rand(2, 1, 12, 9, 16)
    with torch.no_grad():
        assert torch.allclose(exported.network(x), own.network(x), atol=1e-4)


def test_program_of_one_window_segments_volumes_of_any_size(tmp_path, caplog):
    torch.manual_seed(0)
    plan = plan_from_dict({**read_plan("btcv").plan.to_dict(), "roi": [32, 32], "spacing": None})
    arguments = {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
    path = tmp_path / "swin.safetensors"
    save_segmenter(path, new_segmenter(NetworkConfig(name="swin_unetr", arguments=arguments), plan))
    with caplog.at_level("INFO", logger="geovit"):
        report = export(str(path), out=tmp_path / "swin.onnx")
    assert "exported for windows of 32 x 32, which `geovit segment` moves over images of any size" in caplog.text
    assert report.checked.sizes == ((1, 32, 32), (1, 32, 32))
    own, exported = open_segmenter(path), open_segmenter(tmp_path / "swin.onnx")
    x = torch.rand(1, 45, 20, 3)
    expected, made = (Slider(network=s.network, plan=plan, device=torch.device("cpu")).logits(x) for s in (own, exported))
    assert torch.allclose(made, expected, atol=1e-4 * float(expected.abs().max()))
    with pytest.raises(ValueError, match=r"was exported for images of \[32, 32\], got \[33, 32\]"):
        exported.network(torch.rand(1, 1, 33, 32))


def test_encoder_is_exported_for_a_sensor(encoder, tmp_path):
    export(str(encoder), out=tmp_path / "encoder.onnx")
    loaded = open_exported(tmp_path / "encoder.onnx")
    assert loaded.metadata["about"]["sensor"] == "sentinel-2-l2a"
    bands = len(loaded.metadata["about"]["bands"])
    assert loaded.engine.run(np.zeros((1, bands, 16, 24), np.float32)).shape == (1, 8, 4, 6)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["export", "nothing.pt"], "no such file: nothing.pt; models of the package are compact_x2"),
        (["export", "{compact}", "--out", "{folder}/a.bin"], "end in .onnx"),
        (["export", "{compact}", "--sensor", "sentinel-2-l2a"], "sensor was given, but"),
        (
            ["restore", "{folder}/a.png", "--weights", "{compact}", "--engine", "onnx"],
            "is not exported: engine onnx runs",
        ),
        (["restore", "{folder}/a.png", "--engine", "onnx"], "export the model, and give the file as weights"),
        (["segment", "{folder}/a.nii.gz", "--model", "{onnx}"], "holds a model of restoration, expected one of medical"),
        (["classify", "{folder}/a.png", "--engine", "onnx"], "none was given (--model)"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, told, compact, compact_onnx, tmp_path, capsys):
    image(tmp_path / "a.png")
    places = {"compact": compact, "onnx": compact_onnx, "folder": tmp_path}
    assert main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert error.count("geovit: ") == 1


def test_foreign_onnx_file_is_refused(compact_onnx, tmp_path):
    import onnx

    model = onnx.load(compact_onnx)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "a.onnx")
    for engine in ("onnx", "openvino"):
        with pytest.raises(ValueError, match="was not written by geovit export"):
            open_exported(tmp_path / "a.onnx", engine=engine)


@pytest.mark.parametrize("format_", ["onnx", "openvino"])
def test_missing_extra_is_told_in_a_line(format_, compact, compact_onnx, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    monkeypatch.setattr("geovit.apps.export.trace", None)  # it takes minutes, and is not begun
    assert main(["export", str(compact), "--format", format_, "--out", str(tmp_path / f"a{formats.FILES[format_][0]}")]) == 2
    assert "pip install 'geovit[onnx" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, {"onnx": "onnxruntime", "openvino": "openvino"}[format_], None)
    with pytest.raises(ImportError, match=f"pip install 'geovit\\[{format_}\\]'"):
        open_exported(compact_onnx, engine=format_)
