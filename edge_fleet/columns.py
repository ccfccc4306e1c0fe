"""What the files of a run consist of: its kind, and the columns of its tables."""

from __future__ import annotations

KIND = "fleet"
"""The kind of a run in its manifest, which is the name of the command that makes it"""
PREDICTIONS = {
    "simulated": "simulator alone",
    "predicted": "at decision, from the ledger",
    "simulated_published": "simulator alone, published links",
    "predicted_published": "at decision, published links",
}
"""Predictions, whose columns are `NAME_s`, and what they are"""
TIMES = ("waited_s", "took_s", "computed_s", "overrun_s")
"""What a worker reports of an item, in s of the run"""
REQUEST_COLUMNS = [
    "episode", "request", "slot", "station", "arrival_s", "size", "images", "measured_s",
    *(f"{name}_s" for name in PREDICTIONS), "missed", "rejected", "servers", "simulated_servers", "attempts",
    "disturbed", "overruns",
]  # fmt: skip
IMAGE_COLUMNS = [
    "episode", "request", "image", "station", "attempt", "server", "worker", "file", "sent", "received",
    "ended", "target_s", *TIMES, "item_images", "there_began", "there_ended", "back_began", "back_ended",
    "psnr_db", "ssim",
]  # fmt: skip
