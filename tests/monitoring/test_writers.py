"""Each destination of samples, read back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zeromean
from zeromean.measurement.sample import QUANTITIES
from zeromean.measurement.writers import writers_to
from zeromean.monitoring import LayerStatistics, Sample


def sample(step: int, gradient_norm: float = 1.0) -> Sample:
    numbers = {name: float(n) + step for n, name in enumerate(QUANTITIES)}
    layers = [
        LayerStatistics(name, **numbers | {"gradient_norm": gradient_norm})
        for name in ("conv", 'a "b",c')
    ]
    return Sample(step, "AdamW", "update", tuple(layers))


def write(to: Any, *samples: Sample) -> None:
    for writer in writers_to(to):
        for one in samples:
            writer(one)


def test_csv_has_one_row_per_layer_and_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    write(path, sample(0), sample(50))
    write(str(path), sample(100, gradient_norm=float("nan")))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["layer"]) for row in rows] == [
        (step, layer) for step in ("0", "50", "100") for layer in ("conv", 'a "b",c')
    ]
    assert rows[2]["at"] == "update"
    assert {name: float(rows[2][name]) for name in QUANTITIES} == {
        name: getattr(sample(50).layers[0], name) for name in QUANTITIES
    }
    assert rows[4]["gradient_norm"] == "nan"


def test_csv_keeps_every_digit(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", sample(0, gradient_norm=0.1 + 0.2))
    with (tmp_path / "a.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["gradient_norm"]) == 0.1 + 0.2


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("mine.csv", b"a,b\n1,2\n"),
        ("mine.csv", "größe,höhe\n1,2\n".encode("latin-1")),
        ("mine.csv", b"\n"),
        ("mine.csv", b"x" * 200_000),
        ("mine.csv", b"step,optimizer,at,lay"),
        ("mine.jsonl", b'{"loss": 1}\n'),
        ("mine.jsonl", b"\xff\xfe"),
    ],
)
def test_file_with_other_data_raises(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(zeromean.ZeromeanError, match="holds other data"):
        writers_to(path)
    assert path.read_bytes() == data


def test_incomplete_last_line_does_not_damage_the_next(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl"):
        path = tmp_path / name
        write(path, sample(0))
        complete = path.read_bytes()
        path.write_bytes(complete[:-5])
        write(path, sample(50))
        cut, after = path.read_bytes()[: len(complete) - 4], path.read_bytes()[len(complete) - 4 :]
        assert cut == complete[:-5] + b"\n"
        write(tmp_path / f"alone-{name}", sample(50))
        assert (tmp_path / f"alone-{name}").read_bytes().endswith(after)


def test_jsonl_has_one_line_per_sample_and_null_for_nan(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(path, sample(0), sample(50, gradient_norm=float("inf")))
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert (first["step"], first["optimizer"], first["at"]) == (0, "AdamW", "update")
    assert first["layers"][1]["name"] == 'a "b",c'
    assert second["layers"][0]["gradient_norm"] is None


def test_unwritable_file_raises(tmp_path: Path) -> None:
    (writer,) = writers_to(tmp_path / "deep.csv")
    (tmp_path / "deep.csv").unlink()
    (tmp_path / "deep.csv").mkdir()
    with pytest.raises(zeromean.ZeromeanError, match="cannot be written"):
        writer(sample(0))


def test_list_of_destinations(tmp_path: Path) -> None:
    heard: list[Sample] = []
    write([heard.append, tmp_path / "a.jsonl"], sample(0))
    assert heard == [sample(0)]
    assert (tmp_path / "a.jsonl").exists()


def test_tensorboard_by_a_function(tmp_path: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_file_loader",
        reason="tensorboard is optional",
    )
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:

        def log(sample: Sample) -> None:
            for name, value in sample.scalars().items():
                writer.add_scalar(name, value, sample.step)

        write(log, sample(0), sample(50))
    (file,) = tmp_path.iterdir()
    found = {
        (value.tag, event.step): value.tensor.float_val[0]
        if value.tensor.float_val
        else value.simple_value
        for event in reader.EventFileLoader(str(file)).Load()
        for value in event.summary.value
    }
    assert found == {
        (tag, step): pytest.approx(value)
        for step in (0, 50)
        for tag, value in sample(step).scalars().items()
    }


def test_lightning_logger_by_a_function(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(str(tmp_path), name="run", version="0")
    write(lambda one: logger.log_metrics(one.scalars(), step=one.step), sample(0), sample(50))
    logger.save()
    with (tmp_path / "run" / "0" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "50"]
    assert float(rows[1]["zeromean/removed/conv"]) == sample(50).layers[0].removed


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator")
def test_hugging_face_trainer_by_a_function(tmp_path: Path) -> None:
    import transformers

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (self.linear(x) - 1).square().mean()}

    class Watch(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, model, optimizer, **others):  # type: ignore
            self.monitor = zeromean.monitor(
                optimizer, model, every=2, to=lambda sample: trainer.log(sample.scalars())
            )

    trainer = transformers.Trainer(
        model=Model(),
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=1,
            per_device_train_batch_size=4,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=[{"x": row} for row in torch.randn(16, 3)],
        callbacks=[Watch()],
    )
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.train()
    logged = [
        (entry["step"], entry["zeromean/removed/linear.weight"])
        for entry in trainer.state.log_history
        if "zeromean/removed/linear.weight" in entry
    ]
    assert [step for step, _ in logged] == [0, 2]
    assert all(0 < share < 1 for _, share in logged)
