"""``zeromean run`` on scripts as users write them: each is centered as if it were done by hand."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fast_programs import run_here
from programs import by_hand, script, start, zeromean_run

SGD = "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)"
ONE = "zeromean.centralize(optimizer, model)"
TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2")


@dataclass(frozen=True)
class Case:
    """A script, and what a user would add to it.

    Args:
        changes: What to insert after which line of the script.
        summary: What ``zeromean run`` says about its optimizers.
        script: Name of the script, if it is not that of the case.
        launcher: Words in front of the script; without any, the edited copy runs in this process.
        words: Words after the script.
        options: Options of ``zeromean run``.
        compiler: Whether the script needs torch's compiler.
    """

    changes: dict[str, str]
    summary: str
    script: str = ""
    launcher: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    compiler: bool = False
    marks: list[pytest.MarkDecorator] = field(default_factory=list)


def without_durations(output: str) -> str:
    """The output without the durations that the Trainer of Hugging Face prints."""
    return re.sub(r"('train_(?:runtime|\w+_per_second)': )'[^']*'", r"\1", output)


SLOW = [pytest.mark.slow]
CASES = {
    "plain_loop": Case(
        {
            "    model.parameters(), lr=args.lr, weight_decay=args.weight_decay\n)": (
                'zeromean.centralize(optimizer, model, at="update", layers="conv")'
            )
        },
        "AdamW at=update, 1 of 6 parameters (216 of 3,130 entries) centered, 5 steps",
        words=("--optimizer", "AdamW", "--lr", "0.001", "--seed", "3"),
        options=("--at", "update", "--layers", "conv"),
    ),
    "amp": Case(
        {"optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)": ONE},
        "SGD at=gradient",
    ),
    "lstm": Case(
        {"optimizer = torch.optim.SGD(model.parameters(), lr=1.0)": ONE},
        "SGD at=gradient, 5 of 11 parameters (4,576 of 5,342 entries) centered, 6 steps",
    ),
    "compiled": Case(
        {SGD: "zeromean.centralize(optimizer, network)"}, "SGD at=gradient", compiler=True
    ),
    "copied": Case(
        {
            SGD: ONE,
            "twin, twin_optimizer = copy.deepcopy((model, optimizer))": (
                "zeromean.centralize(twin_optimizer, twin)"
            ),
        },
        "2 x SGD at=gradient, 1 of 2 parameters (80 of 84 entries) centered, 3 steps",
    ),
    "gan": Case(
        {
            "optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4,"
            " betas=(0.5, 0.999))": (
                'zeromean.centralize(optimizer_g, generator, at="update"); '
                'zeromean.centralize(optimizer_d, discriminator, at="update")'
            ),
        },
        "448",
        options=("--at", "update"),
    ),
    "policy_gradient": Case(
        {
            "optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)": (
                "zeromean.centralize(optimizer, policy)"
            )
        },
        "Adam left alone: no module owns its parameters",
    ),
    "lookahead": Case(
        {"base = torch.optim.SGD(model.parameters(), lr=0.1)": "zeromean.centralize(base, model)"},
        "Lookahead left alone: it steps through SGD, which is reached itself; SGD at=gradient",
    ),
    "lightning_fit": Case(
        {
            "        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)": (
                "zeromean.centralize(optimizer, self)"
            )
        },
        "SGD at=gradient, 2 of 4 parameters (384 of 404 entries) centered, 8 steps",
        compiler=True,
    ),
    "hf_trainer": Case(
        {
            "    trainer = Trainer(model, args, train_dataset=data)": (
                'zeromean.centralize(trainer.create_optimizer(), model, at="update")'
            )
        },
        "AdamW at=update, 2 of 4 parameters (384 of 404 entries) centered, 4 steps",
        options=("--at", "update"),
        compiler=True,
    ),
    "accelerated": Case({SGD: ONE}, "SGD at=gradient", compiler=True, marks=SLOW),
    "accelerate launch": Case(
        {SGD: ONE},
        "SGD at=gradient",
        script="accelerated",
        launcher=("accelerate", "launch", "--cpu", "--num_processes", "1"),
        compiler=True,
        marks=SLOW,
    ),
    "fsdp2": Case(
        {SGD: ONE},
        "SGD at=gradient, 2 of 4 parameters (384 of 404 entries) centered, 4 steps",
        script="distributed",
        launcher=TORCHRUN,
        words=("fsdp2",),
        compiler=True,
    ),
    "ddp": Case(
        {SGD: ONE},
        "SGD at=gradient, 2 of 4 parameters (384 of 404 entries) centered, 4 steps",
        script="distributed",
        launcher=TORCHRUN,
        words=("ddp",),
        compiler=True,
        marks=SLOW,
    ),
    "hard_coded_seed": Case({SGD: ONE}, "SGD at=gradient", marks=SLOW),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=case.marks) for name, case in CASES.items()]
)
def test_script_trains_as_centralized_by_hand(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case = CASES[name]
    if not case.compiler:
        request.getfixturevalue("without_compiler")
    file = case.script or name
    changed = by_hand(file, case.changes, tmp_path)
    if case.launcher:
        edited = start([*case.launcher, changed, *case.words])
        assert edited.returncode == 0, edited.stderr
        expected = edited.stdout
    else:
        expected = run_here(changed, *case.words)
    done = zeromean_run(*case.options, "--", *(case.launcher or [sys.executable]),
                        script(file), *case.words)  # fmt: skip
    assert done.code == 0, done.err
    assert without_durations(done.out) == without_durations(expected)
    assert case.summary in done.err
    assert done.record.ranks == ([0, 1] if case.launcher == TORCHRUN else [])
    centered = [entry for entry in done.record.optimizers if entry.state == "centered"]
    assert centered
    for entry in centered:
        assert entry.holds is True
        by_weights = entry.optimizer == "SGD" or "--at" in case.options
        drift = entry.mean_change if by_weights else entry.gradient_mean
        assert drift is not None
        assert drift < 1e-6


@pytest.mark.usefixtures("without_compiler")
def test_plain_leaves_the_output_as_it_is() -> None:
    bare = start([sys.executable, script("lstm")])
    done = zeromean_run("--plain", script("lstm"))
    assert (done.code, done.out) == (bare.returncode, bare.stdout)
    assert done.err == bare.stderr + "zeromean: SGD observed without GC, 6 steps\n"
    centered = zeromean_run(script("lstm"))
    assert centered.record.weights == done.record.weights != ""
    assert centered.record.gradient == done.record.gradient != ""
    assert centered.out != done.out


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["amp", "copied", "gan", "compiled", "lightning_fit", "hf_trainer", "accelerated",
     "policy_gradient", "optimized_input", "lookahead", "hard_coded_seed", "hand_written",
     "keras_fit", "ddp", "fsdp2"],
)  # fmt: skip
def test_plain_leaves_every_output_as_it_is(name: str) -> None:
    launched = name in ("ddp", "fsdp2")
    words = (*TORCHRUN, script("distributed"), name) if launched else (sys.executable, script(name))
    bare = start(words)
    done = zeromean_run("--plain", "--", *words)
    assert without_durations(done.out) == without_durations(bare.stdout)
    assert bare.returncode == 0
    assert done.code == (3 if name in ("hand_written", "keras_fit") else 0)


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("optimized_input", "no module owns its parameters"),
        ("hand_written", "hand-written update loop"),
    ],
)
def test_program_without_a_centered_optimizer_exits_with_3(name: str, reason: str) -> None:
    done = zeromean_run(script(name))
    assert (done.code, done.out) == (3, run_here(script(name)))
    assert reason in done.err


@pytest.mark.usefixtures("without_compiler")
def test_spawned_processes_are_merged() -> None:
    done = zeromean_run(script("spawned"))
    assert (done.code, done.record.processes, done.only.steps) == (0, 2, 4)
    assert float(done.out.split()[-1]) < 1e-6


@pytest.mark.slow
def test_keras_on_torch_is_refused_with_a_reason() -> None:
    done = zeromean_run(script("keras_fit"))
    assert done.code == 3
    assert "zeromean.keras" in done.err
