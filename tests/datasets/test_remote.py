"""Scenes on servers, read by GDAL under the environment of the user."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rasterio.windows import Window

from geovit.datasets import open_scene, raster

# A process of its own: GDAL holds Python's lock while it opens a file, and a thread could not answer.
_SERVE = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder, log = map(Path, sys.argv[1:])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        with log.open("a") as file:
            file.write(json.dumps([self.path, dict(self.headers)]) + "\\n")
        path = folder / self.path.lstrip("/").partition("?")[0]
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = path.read_bytes()
        first, last = 0, len(data) - 1
        if wanted := self.headers.get("Range"):
            low, _, high = wanted.removeprefix("bytes=").partition("-")
            first, last = int(low), min(int(high or last), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if body:
            self.wfile.write(data[first : last + 1])

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@dataclass
class Server:
    url: str
    log: Path

    @property
    def asked(self):
        """Paths and headers of all requests."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def server(tmp_path, monkeypatch, tmp_path_factory):
    """A server of ``tmp_path`` that knows ranges, and what it was asked."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    log = tmp_path_factory.mktemp("log") / "asked.jsonl"
    with subprocess.Popen([sys.executable, "-c", _SERVE, tmp_path, log], stdout=subprocess.PIPE, text=True) as running:
        yield Server(f"http://127.0.0.1:{int(running.stdout.readline())}", log)
        running.kill()


@pytest.fixture
def big(write_raster):
    """Large enough that a window of it is a small part: 3 MB, tiled."""
    cube = np.random.default_rng(0).integers(0, 9000, (3, 768, 768)).astype(np.uint16)
    path = write_raster("big.tif", cube, on=None, tiled=True, blockxsize=128, blockysize=128)
    return path, cube


@pytest.mark.parametrize("form", ["/vsicurl/{}/big.tif", "{}/big.tif"])
def test_a_window_of_a_remote_file_is_read_by_ranges(server, big, form):
    path, cube = big
    scene = open_scene(form.format(server.url))
    np.testing.assert_array_equal(scene.read(Window(600, 500, 100, 90)), cube[:, 500:590, 600:700])
    ranges = [tuple(map(int, h["Range"].removeprefix("bytes=").split("-"))) for _, h in server.asked if "Range" in h]
    assert ranges
    assert sum(last - first + 1 for first, last in ranges) < path.stat().st_size / 2


def test_a_server_that_stalls_is_left_after_a_while_unless_the_user_says_otherwise(monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes requests and answers none
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/scene.tif"
        monkeypatch.setitem(raster._STALLED, "GDAL_HTTP_LOW_SPEED_TIME", "1")
        with pytest.raises(ValueError, match=r"scene\.tif: .*too slow"):
            open_scene(url)
        monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "2")
        with pytest.raises(ValueError, match=r"other\.tif: .*timed out"):
            open_scene(url.replace("scene", "other"))  # of the first GDAL remembers that it is not there


def test_a_remote_file_is_opened_once(server, big):
    scene = open_scene(f"/vsicurl/{server.url}/big.tif")
    scene.read(Window(0, 0, 128, 128))
    opened = len(server.asked)
    scene.read(Window(0, 0, 128, 128))
    assert len(server.asked) == opened


def test_a_mosaic_of_remote_files(server, write_raster, grid, cube):
    for name, column in (("l", 0), ("r", 15)):
        write_raster(f"{name}.tif", cube[:, :, column : column + 15], on=grid.part(column, 0, 15, 24))
    scene = open_scene(f"{server.url}/l.tif,/vsicurl/{server.url}/r.tif")
    np.testing.assert_array_equal(scene.read(), cube)


def test_a_remote_item_and_its_assets(server, write_raster, grid, cube, tmp_path):
    (tmp_path / "items").mkdir()
    write_raster("items/red.tif", cube[:1])
    write_raster("items/nir.tif", cube[1:2])
    assets = {
        "red": {"href": "./red.tif", "type": "image/tiff", "eo:bands": [{"name": "red", "center_wavelength": 0.66}]},
        "nir": {
            "href": f"{server.url}/items/nir.tif",
            "type": "image/tiff",
            "bands": [{"name": "nir", "eo:center_wavelength": 0.84}],
        },
    }
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "a", "geometry": None, "links": [], "assets": assets,
            "properties": {"datetime": "2023-06-10T07:46:21Z"}}  # fmt: skip
    (tmp_path / "items/item.json").write_text(json.dumps(item), encoding="utf-8")
    scene = open_scene(f"{server.url}/items/item.json")
    np.testing.assert_allclose(scene.wavelengths, [660, 840])
    np.testing.assert_array_equal(scene.read(), cube[:2])
    # Paths without a server are the item's server's, never this machine's.
    refused = {
        "/etc/a.tif": f"{server.url}/etc",
        "/vsimem/a.tif": "names '/vsimem/a.tif'",
        "file:///etc/a.tif": "names 'file:///etc/a.tif'",
        "./a.vrt": "a VRT, which only the user may name",
    }
    for href, message in refused.items():
        assets["red"]["href"] = href
        (tmp_path / "items/bad.json").write_text(json.dumps(item), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            open_scene(f"{server.url}/items/bad.json")


def test_what_is_not_there_is_said_in_one_line(server):
    for source in (f"{server.url}/none.tif", f"/vsicurl/{server.url}/none.tif", f"{server.url}/none.json"):
        with pytest.raises((ValueError, FileNotFoundError), match="none") as caught:
            open_scene(source)
        assert "\n" not in str(caught.value)


def test_a_server_that_vanishes_gives_one_line(server, big):
    scene = open_scene(f"/vsicurl/{server.url}/big.tif")
    scene.read(Window(0, 0, 64, 64))
    path, _ = big
    path.unlink()
    with pytest.raises(ValueError, match=r"big\.tif: cannot be read") as caught:
        scene.read(Window(256, 256, 128, 128))
    assert "\n" not in str(caught.value)


_ASK = """
import sys
from geovit.datasets import open_scene, raster
try:
    scene = open_scene(sys.argv[1])
    print(scene.read().shape)
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("signed", [False, True])
def test_the_users_settings_for_s3_reach_gdal(server, big, tmp_path, signed):
    path, _ = big
    (tmp_path / "bucket").mkdir()
    path.rename(tmp_path / "bucket/big.tif")
    mine = {"AWS_S3_ENDPOINT": server.url.removeprefix("http://"), "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}
    if signed:
        mine |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "mars-1"}
    else:
        mine |= {"AWS_NO_SIGN_REQUEST": "YES"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GDAL_", "VSI_", "CPL_"))}
    done = subprocess.run(
        [sys.executable, "-c", _ASK, "s3://bucket/big.tif"],
        env=clean | mine,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.strip() == "(3, 768, 768)", done.stderr
    asked = [headers for path, headers in server.asked if path.startswith("/bucket/big.tif")]
    assert asked
    if signed:
        assert all("Credential=key/" in headers["Authorization"] for headers in asked)
        assert all("/mars-1/s3/" in headers["Authorization"] for headers in asked)
    else:
        assert not any("Authorization" in headers for headers in asked)
