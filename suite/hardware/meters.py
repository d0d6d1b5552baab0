"""Meters: named windows of measured time, CPU, memory, GPU use and energy. A meter this machine lacks reads None.

    meter = Meter()
    with meter.window("decode") as window:
        generate()
    window.reading.wall_s

CPU time and memory are this process's own. GPU figures and energies are the whole card's or processor's, whoever used
them: on a shared machine they are an upper bound.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from suite.hardware import nvml as driver

_RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one window measured; MB = 1e6 bytes.

    Attributes:
        name: of the window.
        wall_s: elapsed time.
        cpu_percent: CPU time of this process over wall time; 100 is one core busy throughout.
        rss_mb: resident memory when the window closed.
        peak_rss_mb: highest resident memory in the window. Exact when the window set the process's record, otherwise
            the highest sample, so a spike shorter than the sampling interval can escape it.
        cpu_energy_j: energy of all processor packages (RAPL), which is readable by root only on most systems.
        gpu_utilisation_percent: mean over samples and cards of the share of time with a kernel running.
        gpu_memory_mb: highest sum over the cards of memory in use.
        gpu_fullest_card_mb: highest memory in use on any one card, the figure to hold against a cap per card.
        gpu_energy_j: sum over the cards.
        gpu_temperature_c: highest of any card.
    """

    name: str
    wall_s: float
    cpu_percent: float
    rss_mb: float
    peak_rss_mb: float
    cpu_energy_j: float | None
    gpu_utilisation_percent: float | None
    gpu_memory_mb: float | None
    gpu_fullest_card_mb: float | None
    gpu_energy_j: float | None
    gpu_temperature_c: float | None


class Meter:
    """The meters of this machine, found once; then `window(name)` as often as wanted, nested if need be."""

    def __init__(
        self,
        *,
        interval_s: float = 0.1,
        nvml: Any | None = None,
        powercap: Path = Path("/sys/class/powercap"),
    ) -> None:
        """`interval_s`: between two samples. `nvml` stands in for the NVIDIA driver, `powercap` for RAPL's folder."""
        self.interval_s = interval_s
        self.nvml: Any = nvml or driver.load()
        self.cards = driver.cards(self.nvml) if self.nvml else []
        self.packages = [path for path in sorted(powercap.glob("intel-rapl:*")) if _is_package(path)]
        self.process = psutil.Process()

    @contextlib.contextmanager
    def window(self, name: str) -> Iterator[Window]:
        """Measure the body of the `with`; the window's `reading` is there once it is left, even by an exception."""
        window = Window(self, name)
        try:
            yield window
        finally:
            window.close()


class Window:
    """One open window: samples in a thread that ends with it."""

    def __init__(self, meter: Meter, name: str) -> None:
        """Open the window and start sampling."""
        self._meter = meter
        self._name = name
        self._reading: Reading | None = None
        self._rss: list[float] = []
        self._utilisation: list[float] = []
        self._memory: list[float] = []
        self._fullest: list[float] = []
        self._temperature: list[float] = []
        self._rapl = [_Rapl(path) for path in meter.packages]
        self._record_mb = _rss_record_mb()
        self._gpu_energy_mj = self._each_card("nvmlDeviceGetTotalEnergyConsumption")
        self._sample()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"meter:{name}", daemon=True)
        self._thread.start()
        self._cpu_s = time.process_time()
        self._start_s = time.perf_counter()

    @property
    def reading(self) -> Reading:
        """What was measured; only once the window is closed."""
        if self._reading is None:
            raise RuntimeError(f"window {self._name!r} is still open: read it after its `with` block.")
        return self._reading

    def close(self) -> None:
        """Stop sampling and take the reading."""
        wall_s = time.perf_counter() - self._start_s
        cpu_s = time.process_time() - self._cpu_s
        self._done.set()
        self._thread.join()
        self._sample()
        record_mb = _rss_record_mb()
        joules = [rapl.total_j for rapl in self._rapl]
        self._reading = Reading(
            name=self._name,
            wall_s=wall_s,
            cpu_percent=100 * cpu_s / wall_s,
            rss_mb=self._rss[-1],
            peak_rss_mb=record_mb if record_mb > self._record_mb else max(self._rss),
            cpu_energy_j=sum(joules) if joules else None,
            gpu_utilisation_percent=_over(_mean, self._utilisation),
            gpu_memory_mb=_over(max, self._memory),
            gpu_fullest_card_mb=_over(max, self._fullest),
            gpu_energy_j=self._gpu_energy_j(),
            gpu_temperature_c=_over(max, self._temperature),
        )

    def _run(self) -> None:
        while not self._done.wait(self._meter.interval_s):
            self._sample()

    def _sample(self) -> None:
        """Read every meter that has to be watched. Never runs in two threads at once: `close` joins first."""
        self._rss.append(self._meter.process.memory_info().rss / 1e6)
        for rapl in self._rapl:
            rapl.update()
        if rates := self._each_card("nvmlDeviceGetUtilizationRates"):
            self._utilisation.append(_mean([rate.gpu for rate in rates]))
        if memory := self._each_card("nvmlDeviceGetMemoryInfo"):
            used_mb = [info.used / 1e6 for info in memory]
            self._memory.append(sum(used_mb))
            self._fullest.append(max(used_mb))
        if degrees := self._each_card("nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU"):
            self._temperature.append(max(degrees))

    def _gpu_energy_j(self) -> float | None:
        end_mj = self._each_card("nvmlDeviceGetTotalEnergyConsumption")
        if not end_mj or not self._gpu_energy_mj:
            return None
        used_mj = [end - start for start, end in zip(self._gpu_energy_mj, end_mj, strict=True)]
        # The counter counts from the driver's load in 64 bits: it cannot wrap, but a reload sets it back.
        return sum(used_mj) / 1e3 if min(used_mj) >= 0 else None

    def _each_card(self, function: str, *constants: str) -> list[Any]:
        """One NVML query for every card; empty where a card does not support it, so that no sum is partial."""
        nvml = self._meter.nvml
        try:
            return [
                getattr(nvml, function)(card, *(getattr(nvml, name) for name in constants))
                for card in self._meter.cards
            ]
        except nvml.NVMLError:
            return []


class _Rapl:
    """Energy of one processor package since construction, from a counter that wraps within the hour under load."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._range_uj = int((path / "max_energy_range_uj").read_text())
        self._last_uj = self._read()
        self.total_j = 0.0

    def update(self) -> None:
        now_uj = self._read()
        self.total_j += (now_uj - self._last_uj) % (self._range_uj + 1) / 1e6
        self._last_uj = now_uj

    def _read(self) -> int:
        return int((self._path / "energy_uj").read_text())


def _is_package(path: Path) -> bool:
    """Whether a RAPL zone is a whole processor package (not a part of one, nor the platform) and may be read."""
    try:
        (path / "energy_uj").read_text()
        return (path / "name").read_text().startswith("package")
    except OSError:
        return False


def _rss_record_mb() -> float:
    """Highest resident memory of this process so far, as the kernel keeps it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RUSAGE_UNIT / 1e6


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _over(summary: Callable[[list[float]], float], values: list[float]) -> float | None:
    return summary(values) if values else None
