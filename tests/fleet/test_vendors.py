"""Every vendor's file keeps the same contract; the pacer keeps its promise; the probe finds this machine."""

from __future__ import annotations

import statistics
import time
from types import SimpleNamespace

import pytest
import torch
from provoke import provoke

from danlu import plugins
from danlu.fleet import probe
from danlu.fleet.driver import Float8, vendor
from danlu.fleet.pace import Pacer
from danlu.fleet.reference import Reference
from danlu.nouns import Card


@pytest.mark.parametrize("name", plugins.names("danlu.fleet.vendors"))
def test_a_vendor_keeps_the_contract(name):
    card = Card(f"{name}:0", name, "", {"fp32": 1e9}, 2**20, 1e9, cores=0.5)
    driver = vendor(card)
    if reason := driver.present():
        pytest.skip(f"{name}: {reason}")
    import torch

    assert torch.ones(2, device=driver.device(card)).sum() == 2
    memory = driver.memory(card)
    assert 0 < memory.free <= memory.total
    assert driver.health(card) == ""
    assert isinstance(driver.fp8(card), (str, Float8)) and driver.fp8(card)
    assert driver.native() in ("", "nccl")
    pacer = driver.pace(card)
    with pacer.instruction():
        pass
    assert pacer.settle() <= time.monotonic()


def test_an_unhealthy_emulated_card_says_why():
    card = Card("a", "emulated", "", {"fp32": 1e9}, 2**20, 1e9, cores=2.0)
    assert "at most 1" in vendor(card).health(card)


def burn(cpu_s):
    """Use this much thread CPU."""
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


def test_a_paced_loop_takes_cpu_over_speed():
    pacer = Pacer(0.25)
    began, cpu = time.monotonic(), time.thread_time()
    pacer.restart()
    for _ in range(20):
        with pacer.instruction():
            burn(0.005)
    used = time.thread_time() - cpu
    end = pacer.settle()
    assert end - began == pytest.approx(used / 0.25, rel=0.03)
    assert time.monotonic() >= end


def test_a_slower_machine_is_no_slower_card():
    """Told that work takes twice the CPU it took when probed, the pacer charges half."""
    pacer = Pacer(0.5, drift=lambda: 2.0)
    start, cpu = pacer.clock, time.thread_time()
    with pacer.instruction():
        burn(0.03)
    assert pacer.clock - start == pytest.approx((time.thread_time() - cpu) / 2 / 0.5, rel=0.1)


def test_an_interrupted_look_at_the_machine_changes_no_charge():
    looks = iter([1.0, 1.0, 1.9, 1.0, 1.0])
    pacer = Pacer(1.0, drift=lambda: next(looks))
    for _ in range(5):
        start, cpu = pacer.clock, time.thread_time()
        with pacer.instruction():
            burn(0.031)
        assert pacer.clock - start == pytest.approx(time.thread_time() - cpu, rel=0.1)
    assert next(looks, None) is None, "every instruction was long enough to be followed by a look"


def test_how_slow_the_machine_was_while_ranks_started_is_forgotten():
    looks = iter([2.0, 1.0])
    pacer = Pacer(1.0, drift=lambda: next(looks))
    for slower in (2.0, 1.0):
        pacer.restart()
        start, cpu = pacer.clock, time.thread_time()
        with pacer.instruction():
            burn(0.01)
        assert pacer.clock - start == pytest.approx((time.thread_time() - cpu) / slower, rel=0.2)


def test_a_slow_card_looks_as_often_in_a_step_as_a_fast_one():
    """A tenth of a core works 10 ms in every 100 ms of its clock: three instructions are not one look, but three."""
    looks = []
    pacer = Pacer(0.1, drift=lambda: looks.append(1) or 1.0)
    for _ in range(3):
        with pacer.instruction():
            burn(0.01)
    assert len(looks) == 3


def test_the_reference_is_the_same_work_where_no_gradient_is_wanted_too():
    """A card that waits in the middle of a backward looks there, and a look keeps nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        reference, took = Reference(), []
        for grad in (True, False) * 40:
            with torch.set_grad_enabled(grad):
                took.append(reference.seconds())
    finally:
        torch.set_num_threads(threads)
    wanted, unwanted = statistics.median(took[::2]), statistics.median(took[1::2])
    assert unwanted == pytest.approx(wanted, rel=0.5)


def test_rates_are_told_at_the_machines_usual_speed():
    """A point measured while the reference took twice as long counts as measured at its usual speed."""
    rates = probe.settled([
        ("a", "fp32", [1], 10.0, 1.0), ("a", "fp32", [1], 5.0, 2.0), ("a", "fp32", [1], 10.0, 1.0),
        ("b", "bf16", [1], 1.5, 2.0), ("b", "bf16", [1], 3.0, 1.0), ("b", "bf16", [1], 1.5, 2.0),
    ])  # fmt: skip
    assert {(rate.op, rate.per_s) for rate in rates} == {("usual", 1.0), ("a", 10.0), ("b", 3.0)}


def test_waiting_is_no_credit_and_lateness_is_caught_up():
    pacer = Pacer(0.5)
    arrival = time.monotonic() + 0.05
    with pacer.instruction(ready=arrival):
        assert time.monotonic() >= arrival
        burn(0.002)
    assert pacer.clock >= arrival + 0.004
    start = pacer.clock
    time.sleep(0.05)  # the thread is late; its card is not
    with pacer.instruction():
        burn(0.002)
    assert pacer.clock - start == pytest.approx(0.004, rel=0.5)


def test_what_fails_is_not_charged():
    pacer = Pacer(0.5)
    clock = pacer.clock
    with pytest.raises(ZeroDivisionError), pacer.instruction():
        burn(0.001)
        raise ZeroDivisionError
    assert pacer.clock == clock


def test_a_real_card_is_never_paced():
    pacer = Pacer()
    with pacer.instruction(ready=time.monotonic() + 60):
        pass
    assert pacer.real and pacer.clock <= time.monotonic()


def test_the_link_between_processes_is_measured():
    link = probe.loopback(repeats=20, size=2**20)
    assert 0 < link.latency_s < 0.1
    assert link.bandwidth > 1e7


def test_a_measurement_that_dies_is_reported():
    with provoke("DL-ENV-010") as caught:
        probe.measured(1, "no such grid", lambda text: None)
    assert "no such grid" in caught.error.why


@pytest.mark.parametrize(("hip", "chip", "kinds"), [
    (None, (9, 0), ("float8_e4m3fn", "float8_e5m2")), (None, (8, 9), ("float8_e4m3fn", "float8_e5m2")),
    (None, (8, 6), "8.6"), ("6.2", "gfx942:sramecc+:xnack-", ("float8_e4m3fnuz", "float8_e5m2fnuz")),
    ("6.4", "gfx950", ("float8_e4m3fn", "float8_e5m2")), ("6.2", "gfx90a:sramecc+", "gfx90a"),
])  # fmt: skip
def test_a_card_s_8_bit_floats_are_what_its_driver_says_it_is(hip, chip, kinds, monkeypatch):
    """As torch tells of cards that we never had."""
    import torch

    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: chip)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(gcnArchName=chip))
    card = Card("host2/cuda:1", "cuda", "", {"fp32": 1e9}, 2**20, 1e9)
    found = vendor(card).fp8(card)
    if isinstance(kinds, str):
        assert isinstance(found, str) and kinds in found
    else:
        assert found == Float8(*kinds) and all(hasattr(torch, each) for each in kinds)
