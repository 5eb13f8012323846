"""Memory that is freed is kept, unless somebody wants otherwise."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import avcil

def four_blocks():
    return [bytearray(16 << 20) for _ in range(4)]

four_blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    four_blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(**environment: str) -> int:
    here = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    run = [sys.executable, "-c", FAULTS]
    return int(subprocess.run(run, check=True, capture_output=True, text=True, env=here | environment).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator, which is left alone")
@pytest.mark.parametrize("own", [{"MALLOC_TRIM_THRESHOLD_": "1"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}])
def test_what_is_freed_is_kept_but_as_somebody_wants(own):
    pages = 5 * 4 * (16 << 20) // os.sysconf("SC_PAGE_SIZE")
    kept = _faults()
    assert kept < pages / 100
    # not as many as there are pages: of huge ones fewer are handed out
    assert _faults(**own) > 2 * kept + 100
