"""The arithmetic of the meters, with a fake driver and a fake RAPL folder; the process's own meters for real."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from suite.hardware.meters import Meter, Reading

NO_POWERCAP = Path("no/such/folder")


class FakeNvml:
    """Cards whose meters read a script, one entry a sample; the last entry repeats."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, *, percent, memory_mb, energy_mj, celsius=((40,), (40,))):  # each: one sequence a card
        self.script = {"percent": percent, "memory": memory_mb, "energy": energy_mj, "celsius": celsius}
        self.calls: dict[tuple[str, int], int] = {}

    def _next(self, meter, card):
        values = self.script[meter][card]
        if values is None:
            raise self.NVMLError("not supported")
        n = self.calls.get((meter, card), 0)
        self.calls[meter, card] = n + 1
        return values[min(n, len(values) - 1)]

    def nvmlDeviceGetCount(self):
        return len(self.script["percent"])

    def nvmlDeviceGetHandleByIndex(self, index):
        if index >= self.nvmlDeviceGetCount():
            raise self.NVMLError("no such card")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-one":
            raise self.NVMLError("no such card")
        return 1

    def nvmlDeviceGetUtilizationRates(self, card):
        return SimpleNamespace(gpu=self._next("percent", card))

    def nvmlDeviceGetMemoryInfo(self, card):
        return SimpleNamespace(used=self._next("memory", card) * 10**6)

    def nvmlDeviceGetTotalEnergyConsumption(self, card):
        return self._next("energy", card)

    def nvmlDeviceGetTemperature(self, card, kind):
        assert kind == self.NVML_TEMPERATURE_GPU
        return self._next("celsius", card)


def read(nvml=None, powercap=NO_POWERCAP, during=lambda: None) -> Reading:
    """One window with exactly two samples, at its start and its end."""
    with Meter(nvml=nvml, powercap=powercap, interval_s=3600).window("w") as window:
        during()
    return window.reading


@pytest.fixture(autouse=True)
def all_cards_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpu_arithmetic_over_two_cards():
    nvml = FakeNvml(
        percent=[(10, 30), (50, 70)],
        memory_mb=[(1000, 4000), (3000, 500)],
        energy_mj=[(1_000, 3_500), (9_000, 9_500)],
        celsius=[(61, 58), (40, 72)],
    )
    reading = read(nvml)
    assert reading.gpu_utilisation_percent == 40  # mean of 30 and 50
    assert reading.gpu_memory_mb == 4500  # sums 4000, 4500
    assert reading.gpu_fullest_card_mb == 4000
    assert reading.gpu_energy_j == 3.0  # 2500 mJ + 500 mJ
    assert reading.gpu_temperature_c == 72


def test_a_meter_that_a_card_lacks_is_none_and_the_others_still_read():
    nvml = FakeNvml(percent=[(10,), (20,)], memory_mb=[(5,), (5,)], energy_mj=[(0, 9), None])
    reading = read(nvml)
    assert reading.gpu_energy_j is None
    assert reading.gpu_utilisation_percent == 15


def test_an_energy_counter_set_back_by_a_driver_reload_is_none():
    assert read(FakeNvml(percent=[(0,)], memory_mb=[(0,)], energy_mj=[(5_000, 10)])).gpu_energy_j is None


@pytest.mark.parametrize(("visible", "memory_mb"), [("0", 1), ("1,0", 3), ("GPU-one", 2), ("1,7,0", 2), ("", None)])
def test_only_the_visible_cards_are_metered(monkeypatch, visible, memory_mb):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml = FakeNvml(percent=[(0,), (0,)], memory_mb=[(1,), (2,)], energy_mj=[(0,), (0,)])
    assert read(nvml).gpu_memory_mb == memory_mb


def test_without_a_driver_or_rapl_every_such_meter_is_none(monkeypatch):
    monkeypatch.setattr("suite.hardware.nvml.load", lambda: None)
    reading = read()
    absent = [n for n in Reading.__slots__ if getattr(reading, n) is None]
    assert absent == [n for n in Reading.__slots__ if n.startswith("gpu_") or n == "cpu_energy_j"]


def zone(folder: Path, number: str, name: str, energy_uj: int, range_uj: int = 999_999) -> Path:
    path = folder / f"intel-rapl:{number}"
    path.mkdir()
    (path / "name").write_text(name + "\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return path


def test_rapl_adds_packages_only_and_survives_a_wrap(tmp_path):
    steady = zone(tmp_path, "0", "package-0", 100_000)
    wrapping = zone(tmp_path, "1", "package-1", 900_000)
    part = zone(tmp_path, "0:0", "core", 0)
    platform = zone(tmp_path, "2", "psys", 0)

    def burn():
        (steady / "energy_uj").write_text("600000")
        (wrapping / "energy_uj").write_text("150000")  # 100000 to the wrap, 150000 after it
        (part / "energy_uj").write_text("777")
        (platform / "energy_uj").write_text("888888")

    assert read(powercap=tmp_path, during=burn).cpu_energy_j == pytest.approx(0.75)


def test_a_wrap_a_sample_is_added_up_not_lost(tmp_path):
    package = zone(tmp_path, "0", "package-0", 0)
    window_meter = Meter(powercap=tmp_path, interval_s=3600)
    with window_meter.window("w") as window:
        for energy_uj in (600_000, 200_000, 800_000, 400_000):  # two wraps: 2.4 J
            (package / "energy_uj").write_text(str(energy_uj))
            window._sample()
    assert window.reading.cpu_energy_j == pytest.approx(2.4)


def test_peak_memory_sees_what_was_freed_before_the_window_closed():
    record = read().peak_rss_mb

    def spike():
        size = int(record * 1e6) + 100_000_000  # above anything this process held before
        block = bytearray(size)
        block[::4096] = b"x" * len(range(0, size, 4096))

    reading = read(during=spike)
    assert reading.peak_rss_mb >= record + 100
    assert reading.rss_mb < reading.peak_rss_mb - 100
    assert read().peak_rss_mb < reading.peak_rss_mb - 100  # the next window does not inherit the record


def test_cpu_percent_counts_cpu_time_not_sleep():
    busy, idle = read(during=lambda: sum(range(3_000_000))), read(during=lambda: threading.Event().wait(0.05))
    assert idle.cpu_percent < 50 < 4 * busy.cpu_percent  # loose: other jobs may hold the cores


def test_the_sampler_runs_during_its_window_and_never_outlives_it():
    nvml = FakeNvml(percent=[(0, 100)], memory_mb=[(0,)], energy_mj=[(0,)])
    sampled = threading.Event()
    original = nvml.nvmlDeviceGetUtilizationRates

    def watch(card):
        if threading.current_thread().name == "meter:outer":
            sampled.set()
            time.sleep(0.05)  # so that the window closes in the middle of a sample
        return original(card)

    nvml.nvmlDeviceGetUtilizationRates = watch
    meter = Meter(nvml=nvml, powercap=NO_POWERCAP, interval_s=0.001)
    with pytest.raises(ValueError, match="boom"), meter.window("outer") as outer:  # noqa: PT012
        assert sampled.wait(5)
        with meter.window("inner") as inner, pytest.raises(RuntimeError, match="still open"):
            _ = outer.reading
        raise ValueError("boom")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("meter:")]
    assert 0 < inner.reading.wall_s < outer.reading.wall_s
