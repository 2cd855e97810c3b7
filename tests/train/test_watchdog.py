"""The watchdog: which process is late, and when it gives up."""

import logging
import time

from livecc_jax.train.watchdog import (
    GAVE_UP_EXIT_CODE,
    Heartbeat,
    Watchdog,
    describe_late_processes,
)


def test_the_late_host_is_named():
    def beat(process, step, phase, seconds=400.0, written=1000.0):
        return Heartbeat(process, f"host-{process}", step, phase, seconds, written)

    others = [beat(p, 18, "step") for p in range(3)]
    assert describe_late_processes([*others, beat(3, 18, "rows")], 1001, 30, 4) == (
        "late is host-3 (process 3): at step 18, reading rows for 401 s; the other 3 are further"
    )
    assert "all 3 processes are at step 18, waiting for the devices" in describe_late_processes(
        others, 1001, 30, 3
    )
    silent = beat(3, 17, "step", written=900.0)
    assert describe_late_processes([*others, silent], 1001, 30, 5) == (
        "host-3 (process 3) has sent no heartbeat for 101 s; process 4 has never sent a heartbeat"
    )


def test_a_watchdog_warns_once_and_gives_up(tmp_path, caplog):
    exit_codes = []
    with (
        caplog.at_level(logging.WARNING, logger="livecc_jax"),
        Watchdog(tmp_path, 0, 1, late=0.2, give_up=0.6, exit_process=exit_codes.append) as watchdog,
    ):
        watchdog.enter_phase(7, "rows")
        watchdog.progressed()
        deadline = time.time() + 10
        while not exit_codes and time.time() < deadline:
            time.sleep(0.02)
    assert exit_codes[0] == GAVE_UP_EXIT_CODE
    assert caplog.text.count("no step has ended") - caplog.text.count("giving up") == 1
    assert "all 1 processes are at step 7, reading rows" in caplog.text
