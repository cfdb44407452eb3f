import dataclasses
import json

import numpy as np
import pytest
import torch
from rasterio.crs import CRS

from geovit.apps.cli import main
from geovit.apps.hyperspectral import classify, evaluate, fit_model
from geovit.apps.hyperspectral.adaptation import adapting
from geovit.apps.hyperspectral.baselines import logistic
from geovit.apps.hyperspectral.encoder_network import (
    EncoderNetwork,
    EncoderNetworkConfig,
    SceneEncoder,
    SensorTransform,
    encoder_for,
)
from geovit.apps.hyperspectral.mapping import predict
from geovit.apps.hyperspectral.model import load_classifier
from geovit.apps.hyperspectral.recipe import DEFAULT_RECIPE, Recipe, TrainingConfig, named_recipe
from geovit.apps.hyperspectral.samples import LabelledScene
from geovit.apps.hyperspectral.training import fit, tiling
from geovit.core.layers.lora import LoRALinear
from geovit.core.sensors.batch import SensorBatch
from geovit.core.sensors.encoder import EncoderConfig, build_encoder
from geovit.core.sensors.model import FoundationModel, load_model, save_model
from geovit.core.sensors.normalization import Normalization

CPU = torch.device("cpu")
SCALE = 1e-4


def encoder_of(scene, *, wavelengths=None, factor=1.0, seed=0):
    """An encoder with random weights whose scales are those of a scene, or of other bands."""
    values = torch.from_numpy(scene.read())[None] * (SCALE * factor)
    valid = values.isfinite()
    if wavelengths is not None:
        values, valid = (t[:, :1].expand(-1, len(wavelengths), -1, -1) for t in (values, valid))
    told = torch.tensor(scene.wavelengths if wavelengths is None else wavelengths, dtype=torch.float32)
    batch = SensorBatch(values.where(valid, 0.0), valid, told, torch.tensor([30.0]), "scene")
    config = EncoderConfig(dim=16, depth=2, heads=2, patch=2)
    torch.manual_seed(seed)
    return FoundationModel(encoder=build_encoder(config), config=config, normalization=Normalization.fitted([batch]))


@pytest.fixture(scope="module")
def encoder(scene, tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_model(path, encoder_of(scene))
    return path


@pytest.fixture(scope="module")
def quick():
    """An encoder's recipe that is fitted in a second."""
    return Recipe(
        network="encoder",
        encoder=EncoderNetworkConfig(rank=2, context=3, probe=False),
        kernel=50,
        training=TrainingConfig(members=1, steps=6, batch=4, lr=1e-2, noise=0.05, band_dropout=0.0, check_every=3),
    )


@pytest.fixture(scope="module")
def fitted(scene, labels, encoder, quick):
    """Fit with an adaptation: the classifier and the encoder that it began with."""

    def run(adaptation):
        recipe, model = adapting(
            dataclasses.replace(quick, encoder=dataclasses.replace(quick.encoder, adaptation=adaptation)), encoder
        )
        tiles = tiling(recipe)
        labelled = LabelledScene(scene, labels, margin=tiles.margin, core=tiles.core)
        everything = np.ones(len(labelled), dtype=np.bool_)
        return fit(scene, labelled, everything, recipe, seed=0, device=CPU, encoder=encoder_for(scene, model)), model

    return run


@pytest.fixture(scope="module")
def lora(fitted):
    return fitted("lora")[0]


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def base_weights(network):
    """The encoder's tensors without adapters, under their first names."""
    state = network.encoder.state_dict()
    return {k.replace(".base.", "."): t for k, t in state.items() if not k.endswith((".up", ".down"))}


def test_adapters_are_few_and_nothing_else_moves(lora, encoder, scene):
    network = lora.members[0].network
    given = load_model(encoder).encoder.state_dict()
    kept = base_weights(network)
    assert kept.keys() == given.keys()
    assert all(torch.equal(kept[name], given[name]) for name in given), "frozen weights are equal to the bit"
    # Of each of 2 blocks: qkv 16 -> 48, proj 16 -> 16, fc1 16 -> 64, fc2 64 -> 16, at rank 2; then the head.
    adapters = 2 * 2 * ((16 + 48) + (16 + 16) + 2 * (16 + 64))
    head = (16 + scene.num_bands) * 3 + 3
    assert sum(p.numel() for p in lora.parameters() if p.requires_grad) == adapters + head
    assert lora.info.validation["trained_parameters"] == adapters + head
    adapted = [m for m in network.modules() if isinstance(m, LoRALinear)]
    assert len(adapted) == 8
    assert all(float(m.up.detach().abs().max()) > 0 for m in adapted)


def test_the_classifier_starts_as_the_regression_on_its_features():
    random = np.random.default_rng(0)
    for present in ([0, 1, 2, 3], [0, 2, 3], [1, 3]):
        targets = np.repeat(present, 12)
        features = (random.normal(size=(4, 20))[targets] + random.normal(size=(len(targets), 20))).astype(np.float32)
        architecture = EncoderConfig(dim=16, depth=1, heads=2, patch=2)
        network = EncoderNetwork(4, 4, config=EncoderNetworkConfig(architecture=architecture))
        network.start(torch.from_numpy(features), torch.from_numpy(targets))
        with torch.no_grad():
            found = network.head(torch.from_numpy(features)).softmax(1).numpy()
        expected = logistic(targets, seed=0).fit(features, targets).predict_proba(features)
        np.testing.assert_allclose(found[:, present] / found[:, present].sum(1, keepdims=True), expected, atol=1e-5)
        assert (found.argmax(1) == np.array(present)[expected.argmax(1)]).all(), "absent classes come last"


def test_training_that_does_not_help_ends_where_it_began(scene, labels, encoder, quick):
    harmful = dataclasses.replace(
        quick,
        encoder=dataclasses.replace(quick.encoder, probe=True),
        training=dataclasses.replace(quick.training, lr=10.0, steps=2, check_every=1),
    )
    recipe, model = adapting(harmful, encoder)
    tiles = tiling(recipe)
    labelled = LabelledScene(scene, labels, margin=tiles.margin, core=tiles.core)
    training = np.zeros(len(labelled), dtype=np.bool_)
    training[::5] = True
    network = fit(scene, labelled, training, recipe, seed=0, device=CPU, encoder=encoder_for(scene, model))
    loss = network.info.validation["members"][0]["loss"]
    assert len(loss) == 3
    assert min(loss) == loss[0]
    adapted = [m for m in network.modules() if isinstance(m, LoRALinear)]
    assert all(float(m.up.detach().abs().max()) == 0 for m in adapted)


def test_a_published_checkpoint_is_refused_by_its_kind(tmp_path):
    file = tmp_path / "dofa.pth"
    torch.save({"weight": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match=r"dofa.pth is no encoder of geovit pretrain.* geovit embed and geovit probe$"):
        adapting(DEFAULT_RECIPE, file)


def test_frozen_trains_the_head_alone_and_full_everything(fitted, encoder):
    given = load_model(encoder).encoder.state_dict()
    frozen, _ = fitted("freeze")
    assert trainable(frozen.members[0].network) == {"head.weight", "head.bias"}
    assert all(torch.equal(t, given[name]) for name, t in frozen.members[0].network.encoder.state_dict().items())
    full, _ = fitted("full")
    assert trainable(full.members[0].network) == {name for name, _ in full.members[0].network.named_parameters()}
    assert not all(torch.equal(t, given[name]) for name, t in full.members[0].network.encoder.state_dict().items())


@torch.inference_mode()
def test_merged_adapters_and_a_saved_model_compute_the_same(lora, scene, tmp_path):
    x = torch.from_numpy(scene.read())[None, :, :24, :30]
    expected = lora(x)
    lora.save(tmp_path / "model.safetensors")
    loaded = load_classifier(tmp_path / "model.safetensors")
    assert not any(isinstance(m, LoRALinear) for m in loaded.modules())
    torch.testing.assert_close(loaded(x), expected, rtol=1e-4, atol=1e-6)
    assert any(isinstance(m, LoRALinear) for m in lora.modules()), "saving leaves the model as it is"


@torch.inference_mode()
def test_adapters_alone_need_their_encoder(lora, scene, encoder, tmp_path):
    whole, small = tmp_path / "model.safetensors", tmp_path / "adapters.safetensors"
    lora.save(whole)
    lora.save_adapters(small, lora.adapters())
    x = torch.from_numpy(scene.read())[None, :, :24, :30]
    torch.testing.assert_close(load_classifier(small, load_model(encoder))(x), load_classifier(whole)(x))
    with pytest.raises(ValueError, match="adapters alone: give the encoder"):
        load_classifier(small)
    with pytest.raises(ValueError, match="adapts another encoder"):
        load_classifier(small, encoder_of(scene, seed=1))
    with pytest.raises(ValueError, match="holds all weights"):
        load_classifier(whole, load_model(encoder))


def test_tiles_give_the_map_of_the_whole(lora, scene):
    bands = list(range(scene.num_bands))
    whole = predict(scene, lora, bands, device=CPU, tile=96)
    for tile in (18, 30):
        parts = predict(scene, lora, bands, device=CPU, tile=tile)
        np.testing.assert_allclose(parts.confidence, whole.confidence, rtol=1e-4)
        assert (parts.index != whole.index).mean() < 1e-3


def test_a_scene_must_tell_what_its_bands_and_pixels_are(scene, make_scene):
    model = encoder_of(scene)
    with pytest.raises(ValueError, match="no wavelengths"):
        encoder_for(make_scene(scene.read()), model)
    nowhere = dataclasses.replace(scene, grid=dataclasses.replace(scene.grid, crs=None))
    with pytest.raises(ValueError, match="no size in metres"):
        encoder_for(nowhere, model)
    degrees = dataclasses.replace(scene, grid=dataclasses.replace(scene.grid, crs=CRS.from_epsg(4326)))
    with pytest.raises(ValueError, match="no size in metres"):
        encoder_for(degrees, model)


def test_bands_that_the_encoder_knows_nothing_about_are_named(scene):
    visible = encoder_of(scene, wavelengths=[450.0, 700.0])
    with pytest.raises(ValueError, match=r"lie outside of the 450\.\.700 nm"):
        encoder_for(scene, visible)
    radar = encoder_of(scene, wavelengths=[-1.0, -2.0])
    with pytest.raises(ValueError, match="radar bands only"):
        encoder_for(scene, radar)


def test_other_units_are_refused(scene, labels, quick):
    recipe = dataclasses.replace(
        quick, encoder=dataclasses.replace(quick.encoder, scale=1.0, architecture=encoder_of(scene).config)
    )
    tiles = tiling(recipe)
    labelled = LabelledScene(scene, labels, margin=tiles.margin, core=tiles.core)
    everything = np.ones(len(labelled), dtype=np.bool_)
    with pytest.raises(ValueError, match="no reflectance like that of the encoder"):
        fit(scene, labelled, everything, recipe, seed=0, device=CPU, encoder=encoder_for(scene, encoder_of(scene)))


def test_options_that_do_not_go_together_are_refused(encoder, quick, tmp_path):
    cases = {
        "lora_rank and freeze exclude": {"encoder": encoder, "lora_rank": 4, "freeze": True},
        "full is said of a pretrained encoder": {"encoder": None, "full": True},
        "adapters is said of": {"encoder": None, "adapters": True},
        "no adapters to write after full": {"encoder": encoder, "full": True, "adapters": True},
    }
    for message, options in cases.items():
        with pytest.raises(ValueError, match=message):
            adapting(DEFAULT_RECIPE, **options)
    with pytest.raises(ValueError, match="lola_specvit, which has no use"):
        adapting(named_recipe("lola_specvit"), encoder)
    with pytest.raises(ValueError, match="none was given: add --encoder"):
        adapting(quick, None)
    with pytest.raises(FileNotFoundError):
        adapting(DEFAULT_RECIPE, tmp_path / "none.safetensors")


def test_the_default_recipe_gives_way_to_that_of_encoders(encoder):
    recipe, model = adapting(DEFAULT_RECIPE, encoder, lora_rank=3)
    assert recipe.network == "encoder"
    assert (recipe.encoder.adaptation, recipe.encoder.rank) == ("lora", 3)
    assert recipe.encoder.architecture == model.config
    assert adapting(DEFAULT_RECIPE, encoder, freeze=True)[0].encoder.adaptation == "freeze"
    shipped, model = adapting(DEFAULT_RECIPE, "default")
    assert shipped.encoder.architecture == model.config != recipe.encoder.architecture


def test_classify_with_an_encoder_and_map_again_without_it(files, encoder, quick, tmp_path):
    options = {"recipe": quick, "device": "cpu"}
    for name in "abcd":
        (tmp_path / name).mkdir()
    first = classify(str(files.scene), labels=str(files.labels), encoder=encoder, adapters=True, out=tmp_path / "a", **options)
    assert first.files.keys() == {"map", "model", "adapters", "report", "run", "item"}
    assert first.report["trained_parameters"] < 0.5 * first.report["parameters"]
    assert first.report["recipe"]["encoder"]["architecture"]["dim"] == 16
    again = classify(str(files.scene), model=first.files["model"], out=tmp_path / "b", device="cpu")
    assert again.files["map"].read_bytes() == first.files["map"].read_bytes()
    small = first.files["adapters"]
    third = classify(str(files.scene), model=small, encoder=encoder, out=tmp_path / "c", device="cpu")
    assert json.dumps(third.report["classes"]) == json.dumps(first.report["classes"])
    assert small.stat().st_size < 0.7 * first.files["model"].stat().st_size
    with pytest.raises(ValueError, match="an encoder alone"):
        classify(str(files.scene), encoder=encoder, out=tmp_path / "d")
    with pytest.raises(ValueError, match="said of a fit to labels"):
        classify(str(files.scene), freeze=True, out=tmp_path / "d")
    assert not list((tmp_path / "d").iterdir())


def test_fit_writes_the_model_and_its_adapters(files, encoder, quick, tmp_path):
    done = fit_model(
        str(files.scene), str(files.labels), encoder=encoder, adapters=True, recipe=quick, out=tmp_path, device="cpu"
    )
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in done.files.values()}
    assert load_classifier(done.files["model"]).info.recipe.network == "encoder"


def test_the_command_adapts_an_encoder_without_being_told_a_recipe(files, encoder, tmp_path, capsys):
    command = ["classify", str(files.scene), "--labels", str(files.labels), "--encoder", str(encoder), "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path), "--plan"]) == 0, capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path), "--recipe", "spectral_swin", "--recipe.training.steps", "9", "--plan"]) == 2
    assert "the recipe's network is spectral_swin" in capsys.readouterr().err


def test_paths_may_be_text(files, encoder, quick, tmp_path, labels):
    # As notebooks give them.
    table = tmp_path / "classes.csv"
    table.write_text("".join(f"{info.value},cover {info.value}\n" for info in labels.classes))
    given = {"labels": str(files.labels), "classes": str(table), "encoder": str(encoder), "recipe": quick, "device": "cpu"}
    first = classify(str(files.scene), **given, adapters=True, out=f"{tmp_path}/a", vectorize=f"{tmp_path}/map.gpkg")
    assert first.files["polygons"].is_file()
    small = str(first.files["adapters"])
    again = classify(str(files.scene), model=small, encoder=str(encoder), out=f"{tmp_path}/b", device="cpu")
    assert again.files["map"].read_bytes() == first.files["map"].read_bytes()
    assert [row["name"] for row in again.report["classes"]] == [f"cover {info.value}" for info in labels.classes]
    given["out"] = f"{tmp_path}/c"
    assert load_classifier(str(fit_model(str(files.scene), **given).files["model"])).info.recipe.network == "encoder"
    options = {"per_class": 5, "seeds": 1, "classes": str(table), "encoder": str(encoder), "device": "cpu"}
    evaluate(str(files.scene), str(files.labels), models=["encoder_freeze"], out=f"{tmp_path}/figures.json", **options)
    assert (tmp_path / "figures.json").is_file()


def test_adaptations_are_measured_on_the_same_splits(files, encoder, monkeypatch, quick):
    def recipe(name):
        return quick if name == "encoder" else named_recipe(name)

    for module in ("adaptation", "evaluation"):
        monkeypatch.setattr(f"geovit.apps.hyperspectral.{module}.named_recipe", recipe)
    names = ["svm", "encoder", "encoder_freeze", "encoder_full", "encoder_scratch"]
    paths = str(files.scene), str(files.labels)
    done = evaluate(
        *paths, models=names, protocol="blocks", per_class=10, block=12, buffer=3, seeds=1, encoder=encoder, lora_rank=1,
        device="cpu",
    )  # fmt: skip
    rows = done.report["models"]
    assert list(rows) == names
    assert rows["svm"]["trained"] is None
    trained = [rows[name]["trained"] for name in names[1:]]
    assert trained[1] < trained[0] < trained[2] == trained[3]
    assert done.report["protocol"]["training_pixels"] <= 30
    with pytest.raises(ValueError, match="none of the models"):
        evaluate(str(files.scene), str(files.labels), models=["svm"], encoder=encoder)
    with pytest.raises(ValueError, match="add --encoder"):
        evaluate(str(files.scene), str(files.labels), models=["encoder_freeze"])


@pytest.mark.parametrize("logarithm", [0.0, 0.1])
def test_spectra_go_in_on_the_scale_of_the_encoder(logarithm):
    values, waves = 0.3 * torch.rand(1, 3, 4, 4), torch.tensor([490.0, 665.0, 842.0])
    batch = SensorBatch(values, torch.ones_like(values, dtype=torch.bool), waves, torch.tensor([30.0]), "scene")
    normalization = Normalization.fitted([batch], logarithm=logarithm)
    config = EncoderConfig(dim=16, depth=1, heads=2, patch=2, logarithm=logarithm)
    model = FoundationModel(encoder=build_encoder(config), config=config, normalization=normalization)
    transform = SensorTransform(3, SCALE)
    transform.adapt(SceneEncoder(model, waves, 30.0))
    torch.testing.assert_close(transform(values / SCALE), normalization(batch).values)
