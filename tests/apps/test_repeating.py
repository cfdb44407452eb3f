"""Run cards read back: what differs is told, and a card made by someone else can do nothing but set parameters."""

import json
import random
from contextlib import suppress

import pytest

from geovit.apps.cards import CARD, versions
from geovit.apps.repeating import read_card
from geovit.datasets.identity import identify

ALLOWED = ("scene", "labels", "model", "clusters", "out", "overwrite", "recipe", "bounds")


@pytest.fixture
def card(tmp_path):
    """A card as it is written, and what a test changes of it."""
    for name in ("scene.tif", "m.safetensors"):
        (tmp_path / name).write_text(name)
    scene, model = str(tmp_path / "scene.tif"), str(tmp_path / "m.safetensors")

    def write(**changes):
        content = {
            "format": CARD,
            "command": "classify",
            "parameters": {"scene": scene, "model": model, "clusters": 4, "out": "/there", "overwrite": True},
            "inputs": {scene: [identify(scene).as_dict()]},
            "model": identify(model).as_dict(),
            "versions": versions(),
        }
        path = tmp_path / "run.json"
        path.write_text(json.dumps({**content, **changes}))
        return path

    return write


def options(card, **changes):
    return {**card.parameters, **changes}


def test_parameters_come_back_but_not_where_to_write_or_what_to_replace(card, tmp_path):
    read = read_card(card(), "classify", ALLOWED)
    assert read.parameters == {
        "scene": str(tmp_path / "scene.tif"), "model": str(tmp_path / "m.safetensors"), "clusters": 4,
    }  # fmt: skip
    read.check(options(read))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("scene.tif", "scene.TIF", r"scene.tif: other content of the same size$"),
        ("scene.tif", "longer than before", r"scene.tif: 18 bytes instead of 9$"),
        ("scene.tif", None, r"scene.tif: no such file$"),
        ("m.safetensors", "M.safetensors", r"m.safetensors: other content of the same size$"),
        ("m.safetensors", None, r"m.safetensors: no such file$"),
    ],
)
def test_what_differs_is_said_in_one_line(name, text, message, card, tmp_path):
    read = read_card(card(), "classify", ALLOWED)
    (tmp_path / name).unlink() if text is None else (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"run.json: the run cannot be repeated: .*{message}"):
        read.check(options(read))


def test_what_is_given_anew_is_not_compared(card, tmp_path):
    read = read_card(card(), "classify", ALLOWED)
    for name in ("scene.tif", "m.safetensors"):
        (tmp_path / name).unlink()
    read.check(options(read, scene="other.tif", model=None))


@pytest.mark.parametrize("form", ["{}", "{}+other.tif", "{},other.tif"])
def test_relative_paths_begin_where_the_run_did(form, card, tmp_path, monkeypatch):
    scene = form.format("scene.tif")
    (tmp_path / "other.tif").write_text("other")
    files = [identify(tmp_path / name).as_dict() for name in scene.replace("+", ",").split(",")]
    (tmp_path / "cards").mkdir()
    path = card(
        folder="..", parameters={"scene": scene, "model": "m.safetensors", "bounds": "1,2,3,4"}, inputs={scene: files},
        model={**identify(tmp_path / "m.safetensors").as_dict(), "path": "m.safetensors"},
    )  # fmt: skip
    path = path.rename(tmp_path / "cards" / "run.json")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    read = read_card(path, "classify", ALLOWED)
    assert read.parameters == {
        "scene": form.format(f"{tmp_path}/scene.tif").replace("other", f"{tmp_path}/other"),
        "model": f"{tmp_path}/m.safetensors", "bounds": "1,2,3,4",
    }  # fmt: skip
    read.check(options(read))
    (tmp_path / "scene.tif").write_text("scene.TIF")
    with pytest.raises(ValueError, match="other content of the same size"):
        read.check(options(read))
    monkeypatch.chdir(tmp_path)
    assert read_card(path, "classify", ALLOWED).parameters["scene"] == scene


def test_a_stac_item_is_told_from_a_card(tmp_path):
    item = tmp_path / "scene_item.json"
    item.write_text(json.dumps({"type": "Feature", "stac_version": "1.1.0"}))
    with pytest.raises(ValueError, match=r"scene_item.json: a STAC item, .*: .*/scene_run.json$"):
        read_card(item, "classify", ALLOWED)


def test_other_versions_are_warned_of(card, caplog):
    read = read_card(card(versions={"torch": "1.0", "geovit": versions()["geovit"]}), "classify", ALLOWED)
    read.check(options(read))
    assert caplog.messages == [f"{read.file} was made with torch 1.0: bytes may differ"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "something"}, "not a run card of geovit"),
        ({"command": "embed"}, "a card of geovit embed, not of geovit classify"),
        ({"parameters": {"system": "rm"}}, "geovit classify has no parameter 'system'"),
        ({"parameters": []}, "damaged: parameters is no JSON object"),
        ({"inputs": None}, "damaged: inputs is no JSON object"),
        ({"model": 3}, "damaged: model is no JSON object"),
        ({"parameters": {"recipe": {"network": [{"class_path": "os.system"}]}}}, "names a class to load"),
    ],
)
def test_cards_that_are_none_are_refused(changes, message, card):
    with pytest.raises(ValueError, match=message):
        read_card(card(**changes), "classify", ALLOWED)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": NaN}', b"[]", b"1" * 10_000])
def test_files_that_are_no_json_are_refused(content, tmp_path):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match="run.json: not a run card"):
        read_card(tmp_path / "run.json", "classify", ALLOWED)


def test_a_damaged_card_is_an_error_of_the_user_and_never_another(card, tmp_path):
    """2,000 cards with bytes and values changed: each is read or refused in one line."""
    random.seed(0)
    whole = card().read_text()
    pieces = ["null", "[]", "{}", "-1", "1e999", '"x"', "true", '"/dev/zero"', "[[[]]]", '{"bytes": []}', "NaN", "\\u0000"]
    path = tmp_path / "mutated.json"
    read = 0
    for _ in range(2000):
        at, length = random.randrange(len(whole)), random.choice([0, 1, 1, 3, 20])
        path.write_text(
            whole[:at] + random.choice([random.choice(pieces), chr(random.randrange(32, 127)), ""]) + whole[at + length :]
        )
        with suppress(ValueError):
            found = read_card(path, "classify", ALLOWED)
            found.check(options(found))
            read += 1
    assert 0 < read < 2000
