"""The clock of a run: every second is booked in one account, over all restarts."""

import json

import pytest

from livecc_jax.train.timing import Clock


def test_every_second_is_in_one_account_over_restarts():
    now = 100.0

    def read_time():
        return now

    clock = Clock(now=read_time)
    for account, seconds in (("start", 10), ("step", 30), ("data", 5), ("step", 5)):
        now += seconds
        clock.book(account)
    saved = json.loads(json.dumps(clock.to_json()))
    now += 50  # steps that a crash undoes, and waiting for a machine
    resumed = Clock(saved, now=read_time)
    now += 20
    resumed.book("step")
    assert resumed.seconds["lost"] == 50
    assert sum(resumed.seconds.values()) == now - 100
    assert resumed.goodput() == pytest.approx(55 / 120)
    assert sum(resumed.shares().values()) == pytest.approx(1)


def test_work_is_booked_as_start_until_a_step_is_done():
    now = 0.0
    clock = Clock(now=lambda: now)
    now += 7
    assert clock.book_work() == 7
    clock.first_step_done = True
    now += 3
    assert clock.book_work() == 3
    assert (clock.seconds["start"], clock.seconds["step"]) == (7, 3)
