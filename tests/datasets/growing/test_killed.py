import random
import subprocess

import pytest
import rasterio

SIGKILL = -9


def all_appeared(ended):
    """Killed after its last file had appeared, a run is not known to have been there."""
    return isinstance(ended, list) and ended[0] == "FileExistsError"


def test_killed_at_random_times_and_resumed_the_bytes_are_the_same(processes, runs, whole, tmp_path):
    chance, kills, turn = random.Random(7), 0, 0
    for folder in (tmp_path / "first", tmp_path / "second"):  # the first waits for imports
        folder.mkdir()
        length = processes.run(folder, pause=0.01)[1]
    while kills < 20:
        folder = tmp_path / str(turn)
        folder.mkdir()
        turn += 1
        while True:
            ended, _ = processes.run(folder, pause=0.01, kill_after=chance.uniform(0, length))
            for name, content in whole.items():
                assert not (folder / name).exists() or (folder / name).read_bytes() == content
            if ended == 0 or all_appeared(ended):
                break
            assert ended == SIGKILL
            kills += 1
            length *= 1.02  # on a busy machine, too, it comes to an end
        assert runs.results(folder) == whole


def test_killed_before_any_change_of_the_file_system_the_bytes_are_the_same(processes, runs, whole, tmp_path):
    step, ended = 0, SIGKILL
    while ended == SIGKILL:
        step += 3
        folder = tmp_path / str(step)
        folder.mkdir()
        ended, _ = processes.run(folder, step=step)
        for name, content in whole.items():
            assert not (folder / name).exists() or (folder / name).read_bytes() == content
        if (folder / ".classes.tif.unfinished").exists() or not runs.results(folder):
            again, _ = processes.run(folder)
            assert again == 0 or all_appeared(again)
        assert runs.results(folder) == whole
    assert ended == 0
    assert step > 15


def test_a_file_that_may_not_grow_stops_the_run_which_then_goes_on(processes, runs, whole, tmp_path):
    plain = 3 * 2 * 2**2 * 256**2  # 3 bands of 2 x 2 tiles of 16 bits, and a head
    (name, told), _ = processes.run(tmp_path, bytes=plain - 1000)
    assert (name, told.startswith(f"cannot write {tmp_path / 'shares.tif'}")) == ("OSError", True)
    assert runs.results(tmp_path) == {}
    (name, told), _ = processes.run(tmp_path, bytes=max(map(len, whole.values())) - 5000)
    assert name == "OSError"


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2800k", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_full_disk_nothing_is_begun_and_what_is_done_is_kept(processes, runs, whole, small_disk):
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 1_500_000)
    ended, _ = processes.run(small_disk)
    assert ended[0] == "OSError"
    assert "GB are needed while it grows" in ended[1] or "No space left" in ended[1]
    assert runs.results(small_disk) == {"filler": filler.read_bytes()}
    filler.write_bytes(b"x" * 500_000)
    ended, _ = processes.run(small_disk)  # room for what grows, not for what is made of it
    assert ended[0] == "OSError"
    assert "full" in ended[1] or "No space left" in ended[1]
    assert set(runs.results(small_disk)) == {"filler", ".classes.tif.unfinished"}
    assert runs.GrowingRasters.unfinished(small_disk / ".classes.tif.unfinished")["model"] == "sha256"
    filler.unlink()
    assert processes.run(small_disk)[0] == 0
    assert runs.results(small_disk) == whole
    with rasterio.open(small_disk / "classes.tif") as src:
        assert src.read().any()
