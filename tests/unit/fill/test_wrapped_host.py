"""What a host around another one changes."""

from __future__ import annotations

from onereward.fill.wrapped_host import WrappedHost
from support.recording_host import RecordingHost


def test_of_equal_steps_the_first_one_speaks():
    host = RecordingHost()
    for condition in range(3):
        outer = WrappedHost(host, share=(condition, 3))
        for candidate in range(2):
            WrappedHost(outer, share=(candidate, 2)).notify(f"edit {condition}.{candidate}")
    assert host.lines == ["edit 0.0"]


def test_silent_work_still_speaks():
    host = RecordingHost()
    WrappedHost(host, quiet=True).notify("out of memory: trying once more")
    assert host.lines == ["out of memory: trying once more"]
