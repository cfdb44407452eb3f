"""The page is opened in Chromium, without a network, as a reader would."""

import shutil

import numpy as np
import pytest
from affine import Affine
from playwright.sync_api import sync_playwright

from geovit.apps.hyperspectral import classify
from geovit.apps.hyperspectral.report.gathering import _places, page_of
from geovit.apps.hyperspectral.report.page import ClassRow, ClassSpectra, Page
from geovit.apps.hyperspectral.results import Mapped
from geovit.core.streaming.plan import Area
from geovit.datasets import open_scene, read_labels, synthesize_scene, write_class_map

COLOURS = ((200, 30, 40), (20, 120, 220))


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def a_page(**changes):
    index = np.zeros((40, 60), np.int32)
    index[:, 30:] = 1
    index[:5] = -1
    spectra = ClassSpectra(
        np.array([[1.0, 2, 3, 4], [4, 3, 2, 1]]), np.full((2, 4), 0.5), np.array([10, 20]), np.array([450.0, 550, 650, 850])
    )
    rows = [
        ClassRow(name=name, color="#{:02x}{:02x}{:02x}".format(*color), pixels=1050, share=0.5, hectares=94.5, confidence=c)
        for name, color, c in (("water", COLOURS[0], 0.91), ("<b>wood</b> </script>", COLOURS[1], 0.72))
    ]
    settings = {
        "title": "scene.tif: spectral_swin",
        "facts": ["60 x 40 pixels"],
        "scene": np.full((40, 60, 3), 90, np.uint8),
        "index": index,
        "step": (2.0, 2.0),
        "transform": Affine(30, 0, 400000, 0, -30, 5800000),
        "classes": rows,
        "spectra": spectra,
        "confusion": np.array([[8, 2], [0, 10]]),
        "note": "on blocks held out",
        "run": {"seed": 0},
    }
    return Page(**{**settings, **changes})


@pytest.fixture
def opened(opened_file, tmp_path):
    def visit(page):
        file = tmp_path / "report.html"
        file.write_text(page.html(), encoding="utf-8")
        return opened_file(file)

    return visit


@pytest.fixture
def opened_file(browser):
    complaints, asked = [], []

    def visit(file):
        tab = browser.new_page(viewport={"width": 1300, "height": 900})
        tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        tab.wait_for_selector("body[data-ready=yes]", state="attached")
        return tab

    yield visit
    assert not complaints
    assert all(url.startswith(("file:", "data:")) for url in asked), "the page needs nothing but itself"


def colour_at(tab, column, row):
    code = "([x, y]) => Array.from(document.getElementById('map').getContext('2d').getImageData(x, y, 1, 1).data)"
    return tab.evaluate(code, [column, row])


def test_the_map_has_the_colours_of_the_legend(opened):
    tab = opened(a_page())
    assert colour_at(tab, 10, 20) == [*COLOURS[0], 255]
    assert colour_at(tab, 50, 20) == [*COLOURS[1], 255]
    assert colour_at(tab, 10, 2)[3] == 0, "no data shows the scene below"


def test_the_slider_fades_the_map(opened):
    tab = opened(a_page())
    tab.locator("#opacity").fill("25")
    assert tab.evaluate("document.getElementById('map').style.opacity") == "0.25"


def test_a_class_can_be_hidden(opened):
    tab = opened(a_page())
    assert tab.locator("#spectra polyline").count() == 2
    tab.locator("#classes input").first.uncheck()
    assert colour_at(tab, 10, 20)[3] == 0
    assert colour_at(tab, 50, 20)[3] == 255
    assert tab.locator("#spectra polyline").count() == 1


def test_areas_confidence_and_accuracy_are_told(opened):
    tab = opened(a_page())
    first = tab.locator("#classes tbody tr").first.inner_text()
    assert all(text in first for text in ("water", "94.5 ha", "50.0 %", "1,050", "91.0 %"))
    assert "Overall 90.0 %" in tab.locator("#accuracy-note").inner_text()
    assert "80.0 %" in tab.locator("#accuracy tbody tr").first.inner_text()


def test_names_are_text_and_no_code(opened):
    tab = opened(a_page())
    assert "<b>wood</b> </script>" in tab.locator("#classes").inner_text()


def test_pointing_at_the_map_tells_class_and_place(opened):
    tab = opened(a_page())
    box = tab.locator("#stack").bounding_box()
    tab.mouse.move(box["x"] + box["width"] * 10.5 / 60, box["y"] + box["height"] * 20.5 / 40)
    x, y = 400000 + 30 * 10.5 * 2, 5800000 - 30 * 20.5 * 2
    assert tab.locator("#here").inner_text() == f"water · {x:,.0f}, {y:,.0f}"


def test_zooming_enlarges_about_the_middle(opened):
    tab = opened(a_page())
    before = tab.locator("#stack").bounding_box()
    tab.locator("#in").click()
    after = tab.locator("#stack").bounding_box()
    assert after["width"] == pytest.approx(1.5 * before["width"])
    tab.locator("#fit").click()
    assert tab.locator("#stack").bounding_box() == pytest.approx(before)


def test_what_is_not_known_is_not_shown(opened):
    rows = [ClassRow(name="cluster 1", color="#808080", pixels=5, share=1.0, hectares=None, confidence=None)]
    nothing = ClassSpectra(np.full((1, 4), np.nan), np.full((1, 4), np.nan), np.array([0]), None)
    tab = opened(a_page(classes=rows, index=np.zeros((40, 60), np.int32), spectra=nothing, confusion=None, transform=None))
    assert "confidence" not in tab.locator("#classes").inner_text()
    assert tab.locator("#accuracy-section").is_hidden()
    assert tab.locator("#spectra-section").is_hidden()


def test_a_page_is_gathered_from_map_and_scene(tmp_path):
    files = synthesize_scene(tmp_path, seed=0)
    scene = open_scene(files.scene)
    truth = read_labels(files.truth, scene.grid)
    values = np.array([0, *(info.value for info in truth.classes)], np.int32)
    part = truth.index[20:80, 10:80]
    write_class_map(tmp_path / "map.tif", values[part + 1], scene.grid.part(10, 20, 70, 60), truth.classes)
    mapped = Mapped(
        scene=scene,
        area=Area(20, 10, 60, 70),
        classes=truth.classes,
        pixels=np.bincount(part[part >= 0], minlength=len(truth.classes)),
        confidence=None,
        hectares=None,
        map_file=tmp_path / "map.tif",
        report={"method": "truth", "geovit": "0", "seed": 0},
    )
    page = page_of(mapped)
    np.testing.assert_array_equal(page.index, part)
    assert page.scene.shape == (60, 70, 3)
    pixels = scene.read()[:, 20:80, 10:80]
    usable = np.isfinite(pixels).all(axis=0)
    first = int(np.unique(part[part >= 0])[0])
    expected = pixels[:, (part == first) & usable].mean(axis=1, dtype=np.float64)
    np.testing.assert_allclose(page.spectra.mean[first], expected, rtol=1e-9)
    np.testing.assert_array_equal(page.spectra.wavelengths, scene.wavelengths)


def test_the_command_writes_the_page(tmp_path, opened_file):
    files = synthesize_scene(tmp_path, seed=0)
    result = classify(str(files.scene), clusters=3, report=True, out=tmp_path / "out")
    tab = opened_file(result.files["page"])
    shown = tab.locator("#classes tbody tr").all_inner_texts()
    assert len(shown) == 3
    for text, row in zip(shown, result.report["classes"], strict=True):
        assert f"{row['pixels']:,}" in text
    assert tab.locator("#spectra polyline").count() >= 3


def test_places_for_spectra_are_few_and_spread_evenly():
    places = _places(20_000, 30_000)
    assert 90 <= len(places) <= 100
    assert {place.row_off // 10_000 for place in places} == {0, 1}
    assert {place.col_off // 10_000 for place in places} == {0, 1, 2}
