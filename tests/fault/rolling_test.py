"""Links that are slow, cut to pieces or dead, and a restart of everything, one process after the other."""

import pytest

from kill_points import Run
from leaks import QUIET


@pytest.fixture(scope="module")
def run():
    run = Run(24, 3, lengths=(10, 30), stall=6, step_ms=25)
    run.warm_up()
    yield run
    run.close()


def clean(run):
    assert run.complaints == []
    for kind in ("wrong", "missing", "doubled", "text", "endings"):
        assert run.sums[kind] == 0


def test_every_process_is_replaced_under_load(run):
    old = [slot.process.pid for slot in run.world.slots]
    for slot in run.world.slots:
        run.round([(slot, "drain")])
    assert not set(old) & {slot.process.pid for slot in run.world.slots}
    clean(run)


@pytest.mark.parametrize("mode", ["delay", "fragments"])
def test_answers_over_bad_links(run, mode):
    before = run.world.failovers()
    for slot in run.world.slots:
        slot.set_links(mode)
    run.round([])
    for slot in run.world.slots:
        slot.set_links("pass")
    clean(run)
    # Bad links are no lost workers.
    assert run.world.failovers() == before


@pytest.mark.parametrize("role", QUIET)
def test_a_dead_link_frees_what_was_behind_it(run, role):
    run.round([(role, "hole_reset")])
    clean(run)
