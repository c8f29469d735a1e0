"""Schedules of the learning rate: the rate of every step, and a run that goes on in the middle."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zeromean.errors import ZeromeanError
from zeromean.study.spec import toml
from zeromean.study.engine import checkpoint
from zeromean.study.engine.train import Training
from zeromean.study.spec.records import Candidate, Key
from zeromean.study.schedules import Schedule
from zeromean.study.spec.validation import SettingError
from zeromean.study import Study
from zeromean.study import ImageTask
from zeromean.study.tasks.load import load, rehearse
from zeromean.study.tuning import Tuning, budget

SCHEDULES = ("cosine", "constant", "every=2", "drops=1,3", "halve=5", "exponential=0.01")


def rates(name: str, steps: int, epochs: int, peak: float = 1.0) -> list[float]:
    """The rate that each step is made with."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = Schedule.parse(name).make(optimizer, steps, epochs)
    found = []
    for _ in range(steps * epochs):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return found


def by_epoch(name: str, steps: int, epochs: int) -> list[float]:
    """The rate of each epoch, which is the same for all of its steps."""
    found = rates(name, steps, epochs)
    blocks = [found[start : start + steps] for start in range(0, len(found), steps)]
    assert all(len(set(block)) == 1 for block in blocks)
    return [block[0] for block in blocks]


def test_what_each_schedule_does_to_the_rate() -> None:
    assert by_epoch("constant", 3, 4) == [1, 1, 1, 1]
    assert by_epoch("every=2", 3, 5) == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert by_epoch("drops=1,3", 3, 5) == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    assert by_epoch("drops=50,80", 2, 100) == pytest.approx([1] * 50 + [0.1] * 30 + [0.01] * 20)
    assert rates("halve=4", 3, 3) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]
    # From 0.1 to 0.001, decayed every two epochs, 100 epochs.
    published = by_epoch("exponential=0.01", 2, 100)
    assert published[:2] == [1, 1]
    assert published[-2:] == pytest.approx([0.01, 0.01])
    ratios = [after / before for before, after in pairwise(published[::2])]
    assert ratios == pytest.approx([0.01 ** (1 / 49)] * 49)
    cosine = 0.5 * (1 + torch.cos(torch.pi * torch.arange(12, dtype=torch.float64) / 12))
    assert rates("cosine", 3, 4) == pytest.approx(cosine.tolist())


@given(name=st.sampled_from(SCHEDULES), steps=st.integers(1, 7), epochs=st.integers(1, 9))
def test_every_schedule_begins_at_the_peak_and_never_rises(
    name: str, steps: int, epochs: int
) -> None:
    found = rates(name, steps, epochs, peak=0.3)
    assert found[0] == 0.3
    assert all(before >= after > 0 for before, after in pairwise(found))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_goes_on_at_the_rate_where_it_was(study: Study, name: str, tmp_path: Path) -> None:
    task = replace(study.tasks[0], schedule=name, epochs=4)
    study = replace(study, tasks=(task,), optimizers=("sgd+head-lr=3",))
    problem = load(study, task)
    key = Key(task.label, study.optimizers[0], "gc", 0)
    whole, halves, again = (Training(problem, study, key, Candidate(0.05)) for _ in range(3))
    for _ in range(2):
        whole.advance()
        halves.advance()
    checkpoint.save(tmp_path / "state.pt", checkpoint.on_cpu(halves.state_dict()))
    state = checkpoint.load(tmp_path / "state.pt")
    assert state is not None
    again.load_state_dict(state)
    while not whole.ended:
        assert whole.advance().loss == again.advance().loss
    for one, other in zip(whole.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "name",
    [
        *("warm", "", "cosine=3", "constant=", "every", "every=0", "every=1.5", "every=-1"),
        *("drops=", "drops=3,3", "drops=5,2", "drops=2,", "halve=0", "halve=x", "halve=9999999999"),
        *("exponential", "exponential=0", "exponential=1", "exponential=nan"),
    ],
)
def test_schedules_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ZeromeanError, match="wanted cosine, constant, every=EPOCHS") as error:
        ImageTask(schedule=name)
    assert f"schedule {name!r}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "least"), [("every=3", 4), ("drops=1,3", 4), ("drops=3", 4), ("exponential=0.1", 3)]
)
def test_a_run_that_ends_before_its_schedule_acts_is_refused(name: str, least: int) -> None:
    assert len(set(by_epoch(name, 2, least))) > 1
    ImageTask(schedule=name, epochs=least)
    with pytest.raises(SettingError, match=f"{name} in a run of {least - 1} epoch") as error:
        ImageTask(schedule=name, epochs=least - 1)
    assert error.value.setting == "schedule"


def test_the_line_of_a_schedule_that_would_not_act_is_told(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('[[tasks]]\nepochs = 5\nschedule = "drops=5"\n')
    with pytest.raises(ZeromeanError, match=r"study.toml, line 3: schedule drops=5 in a run of 5"):
        toml.read(file)


def test_steps_too_few_for_a_schedule_of_steps_are_refused_before_training(study: Study) -> None:
    task = study.tasks[0]
    steps = task.epochs * load(study, task).steps(task.batch_size)
    for count, fits in ((steps - 1, True), (steps, False)):
        short = replace(task, schedule=f"halve={count}")
        problem = load(study, short)
        if fits:
            rehearse(study, short, problem)
        else:
            with pytest.raises(SettingError, match=f"halve={steps} in a run of {steps} steps"):
                rehearse(study, short, problem)


@pytest.mark.parametrize(
    ("schedule", "epochs", "told"),
    [
        ("drops=4,8", 8, True),
        ("drops=4,8", 9, False),
        ("halve=12", 4, True),
        ("halve=11", 4, False),
    ],
)
def test_trials_that_end_before_the_schedule_acts_are_told_of(
    study: Study, schedule: str, epochs: int, told: bool
) -> None:
    task = replace(study.tasks[0], epochs=9, schedule=schedule)
    tuning = Tuning(rates=(0.1, 0.2), epochs=epochs)
    tuned = replace(study, tasks=(task,), tuning=tuning)
    assert ("before all of the schedule acts" in budget(tuned, {task.label: 3})) == told


def test_tasks_that_differ_by_their_schedule_are_two() -> None:
    tasks = (ImageTask(model="mlp"), ImageTask(model="mlp", schedule="halve=2000"))
    assert [task.label for task in tasks] == ["digits/mlp", "digits/mlp schedule=halve=2000"]
    Study(tasks=tasks)
