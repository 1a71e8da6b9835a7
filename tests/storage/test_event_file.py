"""Event files, read back with TensorBoard."""

import random
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c as crc32c_by_bytes

from pellucid.core.errors import WriteError
from pellucid.storage.event_file import EventFile, crc32c


@pytest.mark.parametrize("length", [*range(40), 255, 256, 257, 1000, 4095, 4096, 5000, 65_537])
def test_checksums_match_a_loop_over_the_bytes(length):
    content = random.Random(length).randbytes(length)
    assert crc32c(content) == crc32c_by_bytes(content)


def test_events_are_read_back(tmp_path):
    contents = [b"", b"graph", random.Random(0).randbytes(100_000)]
    file = EventFile(tmp_path, start_epoch=3)
    for step, content in enumerate(contents):
        file.write(Event(step=step, graph_def=content))
    file.close()
    (path,) = tmp_path.iterdir()
    version, start, *events = LegacyEventFileLoader(str(path)).Load()
    assert version.file_version == "brain.Event:2"
    assert (start.session_log.status, start.step) == (start.session_log.START, 3)
    assert [(event.step, event.graph_def) for event in events] == list(enumerate(contents))
    assert all(event.wall_time > 1.7e9 for event in events)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_file_that_a_full_disk_has_refused_is_closed_quietly(tmp_path):
    file = EventFile(tmp_path, start_epoch=None)
    file._file.close()
    file._file = open("/dev/full", "wb")  # noqa: SIM115, PTH123
    with pytest.raises(WriteError, match="the disk is full"):
        file.write(Event(step=1))
    file.close()
