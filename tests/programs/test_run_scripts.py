"""``zeromean run`` on scripts as users write them: each is centered as if it were done by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from programs import by_hand, script, start, zeromean_run

# Script, its line that makes the optimizer, and what a user would add after it.
ONE = "zeromean.centralize(optimizer, model)"
BY_HAND = {
    "amp": ("optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)", ONE),
    "lstm": ("optimizer = torch.optim.SGD(model.parameters(), lr=1.0)", ONE),
    "compiled": (
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)",
        "zeromean.centralize(optimizer, network)",
    ),
    "copied": (
        "twin, twin_optimizer = copy.deepcopy((model, optimizer))",
        "zeromean.centralize(twin_optimizer, twin)",
    ),
    "gan": (
        "optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))",
        "zeromean.centralize(optimizer_g, generator)\n"
        "zeromean.centralize(optimizer_d, discriminator)",
    ),
    "policy_gradient": (
        "optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)",
        "zeromean.centralize(optimizer, policy)",
    ),
    "lookahead": (
        "base = torch.optim.SGD(model.parameters(), lr=0.1)",
        "zeromean.centralize(base, model)",
    ),
    "hard_coded_seed": ("optimizer = torch.optim.SGD(model.parameters(), lr=0.1)", ONE),
    "accelerated": ("optimizer = torch.optim.SGD(model.parameters(), lr=0.1)", ONE),
}
SLOW = {"accelerated", "hard_coded_seed", "policy_gradient"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in BY_HAND],
)
def test_script_trains_as_centralized_by_hand(name: str, tmp_path: Path) -> None:
    after, lines = BY_HAND[name]
    if name == "copied":  # the first optimizer too
        lines = f"import zeromean; {lines}"
        source = Path(script(name)).read_text()
        first = "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)"
        changed = tmp_path / "copied.py"
        changed.write_text(
            source.replace(first, f"{first}\nimport zeromean; {ONE}").replace(
                after, f"{after}\n{lines}"
            )
        )
        expected = start([sys.executable, str(changed)]).stdout
    else:
        expected = by_hand(name, after, f"import zeromean\n{lines}", tmp_path)
    done = zeromean_run(script(name))
    assert done.code == 0, done.err
    assert done.out == expected
    centered = [entry for entry in done.record.optimizers if entry.state == "centered"]
    assert centered
    for entry in centered:
        assert entry.holds is True
        if entry.optimizer == "SGD":
            assert entry.mean_change is not None
            assert entry.mean_change < 1e-6
        else:
            assert entry.gradient_mean is not None
            assert entry.gradient_mean < 1e-6


def test_plain_loop_trains_as_centralized_by_hand_at_update(tmp_path: Path) -> None:
    words = ("--optimizer", "AdamW", "--lr", "0.001", "--seed", "3")
    expected = by_hand(
        "plain_loop",
        "    model.parameters(), lr=args.lr, weight_decay=args.weight_decay\n)",
        'import zeromean\nzeromean.centralize(optimizer, model, at="update", layers="conv")',
        tmp_path,
        *words,
    )
    done = zeromean_run(
        "--at", "update", "--layers", "conv", "--", sys.executable, script("plain_loop"), *words
    )
    assert (done.code, done.out) == (0, expected)
    entry = done.only
    assert (entry.centered, entry.parameters, entry.steps) == (1, 6, 5)
    assert entry.mean_change is not None
    assert entry.mean_change < 1e-6
    assert "AdamW at=update, 1 of 6 parameters (216 of 3,130 entries) centered, 5 steps" in done.err


def test_plain_leaves_the_output_as_it_is() -> None:
    bare = start([sys.executable, script("lstm")])
    done = zeromean_run("--plain", script("lstm"))
    assert (done.code, done.out) == (bare.returncode, bare.stdout)
    assert done.err == bare.stderr + "zeromean: SGD observed without GC, 6 steps\n"
    centered = zeromean_run(script("lstm"))
    assert centered.only.weights == done.only.weights
    assert centered.only.gradient == done.only.gradient
    assert centered.out != done.out


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["amp", "copied", "gan", "compiled", "lightning_fit", "accelerated", "policy_gradient",
     "optimized_input", "lookahead", "hard_coded_seed", "hand_written", "spawned"],
)  # fmt: skip
def test_plain_leaves_every_output_as_it_is(name: str) -> None:
    bare = start([sys.executable, script(name)])
    done = zeromean_run("--plain", script(name))
    if name == "spawned":  # the two processes race
        assert done.code == 0
        return
    assert done.out == bare.stdout
    assert done.code == (3 if name == "hand_written" else bare.returncode)


def test_gan_has_two_optimizers() -> None:
    done = zeromean_run("--at", "update", script("gan"))
    assert [e.centered_entries for e in done.record.optimizers] == [336, 448]
    assert all(e.mean_change is not None and e.mean_change < 1e-6 for e in done.record.optimizers)


def test_copied_optimizer_is_centered_too() -> None:
    done = zeromean_run(script("copied"))
    assert (done.only.optimizers, done.only.steps, done.only.holds) == (2, 3, True)


def test_optimizer_of_a_tensor_outside_any_module_is_left_alone() -> None:
    done = zeromean_run(script("policy_gradient"))
    policy, temperature = done.record.optimizers
    assert (policy.state, policy.holds) == ("centered", True)
    assert temperature.state == "left alone"
    assert temperature.reason == "no module owns its parameters"
    assert done.code == 0


def test_program_without_a_centered_optimizer_exits_with_3() -> None:
    bare = start([sys.executable, script("optimized_input")])
    done = zeromean_run(script("optimized_input"))
    assert (done.code, done.out) == (3, bare.stdout)
    assert "no module owns its parameters" in done.err


def test_hand_written_update_loop_is_reported() -> None:
    bare = start([sys.executable, script("hand_written")])
    done = zeromean_run(script("hand_written"))
    assert (done.code, done.out) == (3, bare.stdout)
    assert "hand-written update loop" in done.err


def test_wrapper_optimizer_is_reached_by_its_inner_one() -> None:
    outer, inner = zeromean_run(script("lookahead")).record.optimizers
    assert (outer.optimizer, outer.state) == ("Lookahead", "left alone")
    assert (inner.optimizer, inner.state, inner.holds) == ("SGD", "centered", True)


def test_spawned_processes_are_merged() -> None:
    done = zeromean_run(script("spawned"))
    assert (done.code, done.record.processes, done.only.steps) == (0, 2, 4)
    assert float(done.out.split()[-1]) < 1e-6


def test_hugging_face_trainer_is_reached() -> None:
    done = zeromean_run("--at", "update", script("hf_trainer"))
    assert done.code == 0, done.err
    assert (done.only.optimizer, done.only.centered, done.only.steps) == ("AdamW", 2, 4)
    assert done.only.mean_change is not None
    assert done.only.mean_change < 1e-6


def test_lightning_is_reached() -> None:
    done = zeromean_run(script("lightning_fit"))
    assert done.code == 0, done.err
    assert (done.only.centered, done.only.steps, done.only.holds) == (2, 8, True)


@pytest.mark.slow
def test_accelerate_launch_is_reached() -> None:
    done = zeromean_run("--", "accelerate", "launch", "--cpu", "--num_processes", "1",
                        script("accelerated"))  # fmt: skip
    assert done.code == 0, done.err
    assert (done.only.centered, done.only.steps, done.only.holds) == (2, 4, True)


@pytest.mark.parametrize("how", ["fsdp2", pytest.param("ddp", marks=pytest.mark.slow)])
def test_torchrun_gives_one_merged_record(how: str) -> None:
    words = ("torchrun", "--standalone", "--nproc-per-node", "2", script("distributed"), how)
    done = zeromean_run("--", *words)
    assert done.code == 0, done.err
    assert done.record.ranks == [0, 1]
    assert (done.only.optimizers, done.only.centered_entries, done.only.steps) == (1, 384, 4)
    assert done.only.mean_change is not None
    assert done.only.mean_change < 1e-6


@pytest.mark.slow
def test_keras_on_torch_is_refused_with_a_reason() -> None:
    done = zeromean_run(script("keras_fit"))
    assert done.code == 3
    assert "zeromean.keras" in done.err
