"""What trackers have kept, read back with as little of their own code as there is: key -> [(step, value), ...]."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Series = dict[str, list[tuple[int, float]]]


def of_tensorboard(folder: Path) -> Series:
    """Scalars of the event files in `folder`, what a restart took back left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    return {key: [(e.step, e.value) for e in events.Scalars(key)] for key in events.Tags()["scalars"]}


def text_of_tensorboard(folder: Path) -> str:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return str(events.Tensors("recipe/text_summary")[-1].tensor_proto.string_val[0].decode())


def of_wandb(folder: Path) -> Series:
    """Numbers of every offline run under `folder`, the earliest run first."""
    found: Series = defaultdict(list)
    for record in records_of_wandb(folder):
        row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for key in set(row) - {"step", "_step", "_runtime", "_timestamp"}:
            found[key].append((row["step"], row[key]))
    return dict(found)


def records_of_wandb(folder: Path) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    return [wandb_internal_pb2.Record.FromString(data) for path in files for data in _leveldb(path.read_bytes())]


def _leveldb(data: bytes) -> Iterator[bytes]:
    """The records of a log of LevelDB's: blocks of 32 KiB, in which a record's parts have a header of 7 bytes, after a
    header of 7 bytes of W&B's own."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def of_trackio(folder: Path, project: str) -> Series:
    found: Series = defaultdict(list)
    with sqlite3.connect(folder / f"{project}.db") as base:
        for step, told in base.execute("select step, metrics from metrics order by id"):
            for key, value in json.loads(told).items():
                found[key].append((step, value))
    return dict(found)


def of_mlflow(uri: str, run_id: str) -> Series:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    keys = client.get_run(run_id).data.metrics
    return {key: [(m.step, m.value) for m in client.get_metric_history(run_id, key)] for key in keys}
