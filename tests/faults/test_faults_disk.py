"""A disk that is full, or a folder that cannot be written: one line with the file, and nothing left beside it."""

import errno
import os
import resource

import pytest
import torch

from avcil.base.files import write_bytes, write_json, write_tensors


def _full(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_names_the_file_and_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_json(path, {"old": 1})
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(
        OSError, match=r"No space left on device; make room, .* run this again: '.*result\.json'"
    ) as error:
        write_json(path, {"new": 2})
    assert error.value.errno == errno.ENOSPC and "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"] and "old" in path.read_text()


def test_a_file_that_cannot_grow_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large; .*shard\.safetensors"):
            write_tensors(tmp_path / "shard.safetensors", {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["read only", "a file"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, folder):
    place = tmp_path / folder
    if folder == "a file":
        place.write_text("")
    else:
        place.mkdir()
        place.chmod(0o500)
        if os.access(place, os.W_OK):
            pytest.skip("root writes everywhere")
    with pytest.raises(OSError, match=r"make its folder writable, and run this again: '.*a\.json'"):
        write_bytes(place / "a.json", b"{}")


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append((tmp_path / "a").exists()))
    write_bytes(tmp_path / "a", b"content")
    assert seen == [False] and (tmp_path / "a").read_bytes() == b"content"
