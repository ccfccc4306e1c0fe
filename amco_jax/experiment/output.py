"""The files of a sweep. They appear all at once at the end: an interrupted sweep leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from amco_jax.errors import InputError
from amco_jax.report.figures import save_figure, sweep_figure

FIGURES = {"makespan": "makespan_mean_s", "miss_rate": "miss_rate"}
"""Metrics by the name of the file that shows them."""


class Output:
    """A context that collects the files of a sweep in a hidden directory inside their destination."""

    def __init__(self, directory: str | Path, overwrite: bool = False):
        """Check the destination, so that a sweep does not fail at its end.

        Raises:
          InputError: the directory cannot be written, or holds results and `overwrite` is not set.
        """
        self._final = Path(directory)
        self._writer: pq.ParquetWriter | None = None
        try:
            if not overwrite and (self._final / "manifest.json").exists():
                raise InputError(f"out: {self._final} holds results; legal: another directory, or overwrite")
            self._final.mkdir(parents=True, exist_ok=True)
            self._staging = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self._final))
        except OSError as error:
            raise InputError(f"out: {self._final} cannot be written: {error.strerror or error}") from error

    def add_rows(self, frame: pd.DataFrame) -> None:
        """Append rows to results.parquet."""
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._staging / "results.parquet", table.schema)
        self._writer.write_table(table)

    def finish(self, summary: pd.DataFrame, manifest: dict[str, Any], axis_label: str) -> None:
        """Write everything else, and move all files to their destination."""
        self._close()
        summary.to_csv(self._staging / "summary.csv", index=False)
        for name, metric in FIGURES.items():
            save_figure(sweep_figure(summary, metric, axis_label), self._staging / name)
        text = json.dumps(manifest, indent=2, allow_nan=False)
        (self._staging / "manifest.json").write_text(text + "\n", encoding="utf-8")
        # The manifest goes last: where it stands, the rest stands too.
        for name in sorted(os.listdir(self._staging), key=lambda n: n == "manifest.json"):
            os.replace(self._staging / name, self._final / name)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()
        shutil.rmtree(self._staging, ignore_errors=True)
        if not any(self._final.iterdir()):
            self._final.rmdir()
