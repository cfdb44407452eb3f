import json
import logging
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rio_cogeo import cog_validate

from geovit.core.streaming.run import run
from geovit.datasets import open_scene
from geovit.datasets.growing import GrowingRaster, UnfinishedRunError
from geovit.datasets.growing import rasters as growing
from geovit.datasets.growing.journal import Journal

HIDDEN = ".classes.tif.unfinished"


def shares(runs):
    area = runs.PLAN.area
    image = np.exp(runs.IMAGE[:, area.row : area.row + area.height, area.column : area.column + area.width])
    return image / image.sum(0)


def test_what_appears_are_cogs_on_the_grid_of_what_was_computed(runs, whole, tmp_path):
    runs.carry_out(tmp_path)
    assert runs.results(tmp_path) == whole
    expected = shares(runs)
    for name in ("classes.tif", "shares.tif"):
        assert cog_validate(tmp_path / name, strict=True) == (True, [], [])
    with rasterio.open(tmp_path / "classes.tif") as src:
        assert (src.crs, src.transform, src.nodata, src.colormap(1)[1]) == (runs.GRID.crs, runs.GRID.transform, 0, (9, 8, 7, 255))
        np.testing.assert_array_equal(src.read(1), expected.argmax(0) + 1)
    with rasterio.open(tmp_path / "shares.tif") as src:
        assert (src.dtypes[0], np.isnan(src.nodata), src.descriptions) == ("float32", True, ("a", "b", "c"))
        np.testing.assert_allclose(src.read(), expected, atol=2e-3)
    assert b"<Category>two</Category>" in whole["classes.tif.aux.xml"]
    assert len(json.loads(whole["report.json"])) == len(runs.PLAN)
    assert open_scene(tmp_path / "shares.tif").grid == runs.GRID


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, MemoryError])
def test_stopped_in_the_middle_it_says_how_to_go_on_and_does(runs, whole, tmp_path, caplog, error):
    with pytest.raises(error):
        runs.carry_out(tmp_path, runs.Job(stops_at=7, error=error))
    assert list(runs.results(tmp_path)) == [HIDDEN]
    assert any("--resume" in record.getMessage() for record in caplog.records)
    with pytest.raises(UnfinishedRunError, match=r"of 16 parts are done: pass --resume to go on with it, or --overwrite"):
        runs.carry_out(tmp_path)
    runs.carry_out(tmp_path, resume=True)
    assert runs.results(tmp_path) == whole


def test_stopped_before_the_first_part_nothing_stays(runs, tmp_path):
    with pytest.raises(OSError, match="scene"):
        runs.carry_out(tmp_path, runs.Job(stops_at=0))
    assert runs.results(tmp_path) == {}


def test_killed_while_it_clears_away_a_run_that_had_done_nothing_it_begins_again(runs, whole, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    hidden = tmp_path / HIDDEN
    (hidden / "plain").mkdir(parents=True)
    (hidden / "plain" / "classes.tif").touch()
    journal = Journal(hidden / "journal")
    journal.append({"parts": len(runs.PLAN)})
    journal.close()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda folder: iter(sorted(map(folder.joinpath, os.listdir(folder)))))
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(Killed):
            runs.carry_out(tmp_path, resume=True)
    runs.carry_out(tmp_path, resume=True)
    assert runs.results(tmp_path) == whole


def test_a_run_is_gone_on_with_only_by_its_own_job(runs, whole, tmp_path):
    with pytest.raises(MemoryError):
        runs.carry_out(tmp_path, runs.Job(stops_at=9, error=MemoryError))
    with pytest.raises(
        UnfinishedRunError, match=r'another job \(job.size: 0.1, now 0.2; job.more: null, now "x"\): pass --overwr'
    ):
        runs.carry_out(tmp_path, settings={"size": 0.2, "more": "x"}, resume=True)
    assert runs.GrowingRasters.unfinished(tmp_path / HIDDEN) == {"model": "sha256", "size": 0.1}
    runs.carry_out(tmp_path, settings={"size": 0.2}, overwrite=True)
    assert runs.results(tmp_path) == whole


def test_results_are_replaced_only_if_that_was_said_and_with_them_what_lay_beside(runs, whole, tmp_path):
    (tmp_path / "shares.tif").write_text("mine")
    (tmp_path / "shares.tif.ovr").write_text("small pictures of mine")
    with pytest.raises(FileExistsError, match=r"shares.tif exists: pass --overwrite"):
        runs.carry_out(tmp_path, resume=True)
    assert len(runs.results(tmp_path)) == 2
    runs.carry_out(tmp_path, overwrite=True)
    assert runs.results(tmp_path) == whole


def test_files_appear_all_in_the_end_whatever_interrupts_that(runs, whole, tmp_path, monkeypatch):
    move, moved = growing.move, []

    def stops(*arguments):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(arguments)
        move(*arguments)

    monkeypatch.setattr(growing, "move", stops)
    with pytest.raises(KeyboardInterrupt):
        runs.carry_out(tmp_path)
    assert set(runs.results(tmp_path)) == {HIDDEN, "report.json", "shares.tif"}
    monkeypatch.undo()
    runs.carry_out(tmp_path, resume=True)
    assert runs.results(tmp_path) == whole


def test_results_on_another_file_system_appear_there(runs, whole, tmp_path, monkeypatch):
    replaced = type(tmp_path).replace

    def elsewhere(source, target):
        if source.parent.parent.name == "results" and target.parent == tmp_path:
            raise OSError(18, "Invalid cross-device link")
        return replaced(source, target)

    monkeypatch.setattr(type(tmp_path), "replace", elsewhere)
    runs.carry_out(tmp_path)
    assert runs.results(tmp_path) == whole


def test_a_second_process_is_refused(runs, whole, tmp_path):
    inside, over = threading.Event(), threading.Event()

    class Waiting(runs.Job):
        def compute(self, data, part):
            inside.set()
            over.wait(20)
            return super().compute(data, part)

    first = threading.Thread(target=runs.carry_out, args=(tmp_path, Waiting()))
    first.start()
    inside.wait(20)
    try:
        # A lock is of the open file: what holds between processes holds between these two, too.
        with pytest.raises(OSError, match="another process is at this run"):
            runs.carry_out(tmp_path, overwrite=True)
    finally:
        over.set()
        first.join()
    assert runs.results(tmp_path) == whole


@pytest.fixture
def unfinished(runs, tmp_path):
    with pytest.raises(MemoryError):
        runs.carry_out(tmp_path, runs.Job(stops_at=9, error=MemoryError))
    return tmp_path / HIDDEN


@pytest.mark.parametrize("damage", ["journal gone", "journal", "raster gone", "raster short", "head", "pixels"])
def test_what_is_damaged_is_told_and_can_be_begun_anew(runs, whole, tmp_path, unfinished, damage):
    journal, raster = unfinished / "journal", unfinished / "plain" / "shares.tif"
    if damage == "journal gone":
        journal.unlink()
    elif damage == "journal":
        text = bytearray(journal.read_bytes())
        text[len(text) // 2] ^= 1
        journal.write_bytes(text)
    elif damage == "raster gone":
        raster.unlink()
    elif damage == "raster short":
        raster.write_bytes(raster.read_bytes()[:-1000])
    else:
        content = bytearray(raster.read_bytes())
        content[600 if damage == "head" else -3 * 2 * 256**2 - 2 * 256 * 200] ^= 1
        raster.write_bytes(content)
    with pytest.raises(UnfinishedRunError, match=r"^[^\n]*: pass --overwrite and not --resume to begin anew$"):
        runs.carry_out(tmp_path, resume=True)
    assert list(runs.results(tmp_path)) == [HIDDEN]
    runs.carry_out(tmp_path, overwrite=True)
    assert runs.results(tmp_path) == whole


def test_parts_that_a_loss_of_power_took_are_computed_again(runs, whole, tmp_path, unfinished):
    journal = Journal(unfinished / "journal")
    last = journal.entries.index([entry for entry in journal.entries if "part" in entry][-1])
    journal.cut(last + 1)  # as if the disk had kept the line
    synced = [index for index, entry in enumerate(journal.entries) if "synced" in entry]
    assert synced[-1] < last
    journal.close()
    raster = GrowingRaster(unfinished / "plain" / "classes.tif", runs.layers(tmp_path)["classes"])
    raster.write(np.zeros((1, *runs.GRID.shape)), 0, 0)  # but not the pixels
    raster.close()
    seen = []

    class Watched(runs.Job):
        def compute(self, data, part):
            seen.append(part.index)
            return super().compute(data, part)

    runs.carry_out(tmp_path, Watched(), resume=True)
    assert sorted(seen) == list(range(len(runs.PLAN)))
    assert runs.results(tmp_path) == whole


def test_parts_come_in_order_and_whole(runs, tmp_path):
    layers = runs.layers(tmp_path)
    with runs.GrowingRasters.open(tmp_path / HIDDEN, layers, job={}, parts=2) as rasters:
        place = runs.PLAN.place(runs.PLAN.part(1))[0]
        values = {"classes": np.zeros((1, place.height, place.width)), "shares": np.zeros((3, place.height, 9))}
        with pytest.raises(ValueError, match="part 1"):
            rasters.write(1, place, runs.Finished(values))
        with pytest.raises(ValueError, match=r"with \['classes'\]: expected 0 with"):
            rasters.write(0, place, runs.Finished({"classes": values["classes"]}))
        with pytest.raises(ValueError, match="for 3 bands of"):
            rasters.write(0, place, runs.Finished(values))
    assert runs.results(tmp_path) == {}


def test_the_same_place_for_two_results_is_refused(runs, tmp_path):
    layers = runs.layers(tmp_path)
    layers["shares"] = replace(layers["shares"], path=layers["classes"].path)
    with (
        pytest.raises(ValueError, match="a path and a name of its own"),
        runs.GrowingRasters.open(tmp_path / HIDDEN, layers, job={}, parts=2),
    ):
        pass
    assert runs.results(tmp_path) == {}


def test_a_missing_folder_is_told_before_anything_is_done(runs, tmp_path):
    with pytest.raises(OSError, match=r"^cannot write .*nowhere is not a folder$"):
        runs.carry_out(tmp_path / "nowhere")


def test_files_that_are_kept_are_there_for_the_next(runs, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    options = {"layers": runs.layers(tmp_path), "job": {}, "parts": 2}
    with runs.GrowingRasters.open(tmp_path / HIDDEN, **options) as rasters:
        rasters.keep("fitted").write_text("after an hour")
    assert "--resume" in caplog.text
    with runs.GrowingRasters.open(tmp_path / HIDDEN, resume=True, **options) as rasters:
        assert (rasters.done, rasters.keep("fitted").read_text()) == (0, "after an hour")


def test_progress_of_making_the_files_reaches_its_end(runs, tmp_path):
    told = []
    with runs.GrowingRasters.open(tmp_path / HIDDEN, runs.layers(tmp_path), job={}, parts=len(runs.PLAN)) as rasters:
        with pytest.raises(ValueError, match="0 of 16 parts are finished"):
            rasters.translate()
        run(runs.PLAN, runs.Job(), rasters)
        rasters.translate(lambda done, of: told.append((done, of)))
        assert rasters.read("classes", 3, 4, 5, 6).shape == (1, 5, 6)
        assert rasters.raster("classes").is_file()
        rasters.publish()
        assert rasters.raster("classes") == tmp_path / "classes.tif"
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]
