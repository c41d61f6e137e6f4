"""Figures of this machine, named as Prometheus' node exporter names them. Needs psutil."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeAlias

import psutil

#: Name, labels and value of a series.
Figure: TypeAlias = tuple[str, dict[str, str], float]

_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_MEMORY = {
    "total": "MemTotal",
    "free": "MemFree",
    "available": "MemAvailable",
    "buffers": "Buffers",
    "cached": "Cached",
}
_DISK = {
    "read_bytes": "read_bytes_total",
    "write_bytes": "written_bytes_total",
    "read_count": "reads_completed_total",
    "write_count": "writes_completed_total",
}
_NETWORK = {
    "bytes_recv": "receive_bytes_total",
    "bytes_sent": "transmit_bytes_total",
    "packets_recv": "receive_packets_total",
    "packets_sent": "transmit_packets_total",
}


def figures() -> Iterator[Figure]:
    """Return what this machine does at the moment; what it does not tell is left out."""
    yield "node_boot_time_seconds", {}, psutil.boot_time()
    yield "node_processes_pids", {}, float(len(psutil.pids()))
    for minutes, load in zip((1, 5, 15), os.getloadavg(), strict=True):
        yield f"node_load{minutes}", {}, load
    for number, times in enumerate(psutil.cpu_times(percpu=True)):
        for mode in _MODES:
            if hasattr(times, mode):
                labels = {"cpu": str(number), "mode": mode}
                yield "node_cpu_seconds_total", labels, getattr(times, mode)
    memory = psutil.virtual_memory()
    for field, name in _MEMORY.items():
        if hasattr(memory, field):
            yield f"node_memory_{name}_bytes", {}, float(getattr(memory, field))
    usage = psutil.disk_usage("/")
    yield "node_filesystem_size_bytes", {"mountpoint": "/"}, float(usage.total)
    yield "node_filesystem_avail_bytes", {"mountpoint": "/"}, float(usage.free)
    for kind, names, devices in (
        ("disk", _DISK, psutil.disk_io_counters(perdisk=True) or {}),
        ("network", _NETWORK, psutil.net_io_counters(pernic=True)),
    ):
        for device, counters in sorted(devices.items()):
            for field, name in names.items():
                yield f"node_{kind}_{name}", {"device": device}, float(getattr(counters, field))
