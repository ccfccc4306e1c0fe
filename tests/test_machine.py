"""What is told of the machine: a processor's name, and memory that is this process's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from amco_jax.machine import peak_memory, processor

MEGABYTES = 10**6


def test_the_processor_has_a_name():
    assert processor()
    assert processor() == " ".join(processor().split())


def test_peak_memory_counts_what_was_held_for_a_moment():
    before = peak_memory()
    size = before + 100 * MEGABYTES  # more than what may have been given back by now
    np.ones(size // 8).sum()
    assert size < peak_memory() < before + size + 100 * MEGABYTES


def test_peak_memory_is_not_that_of_the_parent():
    held = np.ones(800 * MEGABYTES // 8)
    program = "from amco_jax.machine import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 10 * MEGABYTES < int(done.stdout) < 500 * MEGABYTES < held.nbytes
