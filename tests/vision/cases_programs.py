"""The training programs of the recipes: metrics against brute force, bad input, a run of each."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pycocotools.coco import COCO

import zeromean
from zeromean.recipes import program_data, registry
from zeromean.recipes.programs import classification, detection, reid, reinforce, training
from zeromean.study.data import image_files

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    code: int
    stdout: str
    stderr: str


def run(program: str, *arguments: object) -> Done:
    """Run a program in this process, which has imported its packages already."""
    module = importlib.import_module(f"zeromean.recipes.programs.{program}")
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", [program, *map(str, arguments)]),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        try:
            module.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
            if code != end.code:
                stderr.write(f"{end.code}\n")  # as Python does
    return Done(code, stdout.getvalue(), stderr.getvalue())


def curve(out: Path) -> list[dict[str, float]]:
    """Return the records of a program's metrics file."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def write_images(folder: Path, names: list[str], size: tuple[int, int] = (24, 16)) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / name)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    script = ROOT / "benchmarks" / "digit_scenes.py"
    subprocess.run(
        [sys.executable, str(script), str(out), "--train", "8", "--val", "24"], check=True
    )
    return out


# --- the shared parts


def test_weights_are_loaded_except_for_the_classifier(tmp_path: Path) -> None:
    saved, model = (timm.create_model("resnet18", num_classes=3) for _ in range(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = saved.state_dict()
    old = {name: value for name, value in weights.items() if "num_batches" not in name}
    for file in (weights, {"state_dict": weights}, {"model": old}):
        torch.save(file, tmp_path / "w.pth")
        training.load_weights(model, tmp_path / "w.pth", fresh="fc.")
        for name, value in model.state_dict().items():
            expected = before if name.startswith("fc.") else weights
            assert torch.equal(value, expected[name]), name
        model.load_state_dict(before)


@pytest.mark.parametrize(
    ("file", "error"),
    [
        (None, "cannot be read as weights: .*No such file"),
        (b"", "cannot be read as weights"),
        (b"no weights", "cannot be read as weights"),
        (b"a", "cannot be read as weights"),
        ([1, 2], "has no names and weights"),
        ({"model": 5}, "has no names and weights"),
        ({0: torch.ones(2)}, "has no names and weights"),
        ({}, "lacks 2 of 2 tensors, 0.weight first"),
        ({"0.weight": torch.ones(2, 2), "0.bias": torch.ones(3)}, "lacks 1 of 2 .* 0.bias first"),
        ({"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2), "7.bias": torch.ones(2)},
         "7.bias first"),
    ],
    ids=[
        "missing", "empty", "text", "letter", "list", "number", "names", "nothing", "shape", "more",
    ],
)  # fmt: skip
def test_unsuitable_weights_are_refused(file: object, error: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    if isinstance(file, bytes):
        path.write_bytes(file)
    elif file is not None:
        torch.save(file, path)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    before = model[0].weight.detach().clone()
    with pytest.raises(SystemExit, match=rf"w\.pth.* {error}"):
        training.load_weights(model, path, fresh="fc.")
    assert torch.equal(model[0].weight, before)


# --- detection


def test_ground_truth_as_detections_scores_100(scenes: Path) -> None:
    truth = COCO(str(scenes / "annotations/instances_val2017.json"))
    assert any(a["iscrowd"] for a in truth.anns.values())
    found = [
        {key: a[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
        | {"score": 1.0}
        for a in truth.anns.values()
        if not a["iscrowd"]
    ]
    metrics = detection.score(truth, found, masks=True)
    assert len(metrics) == 6
    assert all(value == pytest.approx(100) for value in metrics.values())
    assert set(detection.score(truth, [], masks=True).values()) == {0.0}


def test_evaluation_scores_a_perfect_detector_with_100(scenes: Path) -> None:
    dataset = detection.CocoImages(scenes, "val", masks=True, train=False)

    targets = [dataset[n][1] for n in range(len(dataset))]

    class Oracle(torch.nn.Module):
        left = iter(targets)

        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            return [self.truth(next(self.left)) for _ in images]

        def truth(self, target: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            found = detection.usable(dataset.coco.imgToAnns[target["image_id"].item()])
            masks = np.array([dataset.coco.annToMask(a) for a in found]).reshape(-1, 1, 64, 96)
            return {
                "boxes": target["boxes"].clone(),
                "labels": target["labels"],
                "scores": torch.ones(len(found)),
                "masks": torch.from_numpy(masks.astype(np.float32)),
            }

    loader = [[(torch.zeros(3, 64, 96), target)] for target in targets]
    metrics = detection.evaluate(Oracle(), loader, dataset, torch.device("cpu"))
    assert all(value == pytest.approx(100) for value in metrics.values())


def test_training_images_leave_out_crowds_and_renumber_categories(scenes: Path) -> None:
    images = detection.CocoImages(scenes, "train", masks=True, train=True)
    annotations = images.coco.imgToAnns
    assert any(a["iscrowd"] for i in images.ids for a in annotations[i])
    for image, target in images:
        found = annotations[target["image_id"].item()]
        assert len(target["masks"]) == sum(not a["iscrowd"] for a in found)
        assert image.shape == (3, 64, 96)
        assert target["masks"].shape[1:] == image.shape[1:]
        assert target["labels"].min() >= 1
        assert target["labels"].max() <= 10
        for box, mask in zip(target["boxes"], target["masks"], strict=True):
            rows, columns = mask.nonzero().T
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == [float(c) for c in corners]


def options(**changed: object) -> Namespace:
    given = {"backbone": "resnet50", "norm": "frozen", "ws": False, "box_head": "2fc"}
    given |= {"weights": None, "masks": True, "min_size": 64}
    given |= {"max_size": 96, "anchors": [32, 64, 128, 256, 512]}
    given |= {"channels": 256, "proposals": 2000, "rois": 512}
    return Namespace(**given | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"backbone": "resnet18", "norm": "group"},
        {"box_head": "4c1f", "norm": "group", "ws": True, "backbone": "resnet18"},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"backbone": "resnet101"}, marks=pytest.mark.slow),
        pytest.param({"backbone": "resnext101_32x4d"}, marks=pytest.mark.slow),
        pytest.param({"backbone": "resnext101_64x4d"}, marks=pytest.mark.slow),
        pytest.param({"box_head": "4c1f"}, marks=pytest.mark.slow),
        pytest.param({"norm": "group", "backbone": "resnet101"}, marks=pytest.mark.slow),
        pytest.param({"norm": "group", "ws": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_detectors_have_a_plan_and_gradients(changed: dict[str, object]) -> None:
    model = detection.build(options(**changed), classes=80)
    plan = zeromean.explain(model)
    assert len(plan.centered) > 20
    target = {
        "boxes": torch.tensor([[5.0, 5, 40, 40]]),
        "labels": torch.tensor([3]),
        "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
    }
    losses = model.train()([torch.rand(3, 64, 64)], [target])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert model.roi_heads.box_predictor.cls_score.weight.grad is not None


def test_weight_standardization_acts_where_published() -> None:
    """On backbone, FPN, box and mask head; not on the RPN and the layers that predict."""
    given = options(box_head="4c1f", norm="group", ws=True, backbone="resnet18")
    model = detection.build(given, classes=80)
    convolutions = {
        name: torch.nn.utils.parametrize.is_parametrized(module)
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))
    }
    for name, standardized in convolutions.items():
        published = ("backbone.", "roi_heads.box_head.", "roi_heads.mask_head.")
        assert standardized == name.startswith(published), name
    assert 0 < sum(convolutions.values()) < len(convolutions)


def test_pretrained_backbone_is_loaded_whole_with_its_first_stages_frozen(tmp_path: Path) -> None:
    weights = detection.BACKBONES["resnet18"]().state_dict()
    torch.save({"model": weights}, tmp_path / "w.pth")
    model = detection.build(options(backbone="resnet18", weights=tmp_path / "w.pth"), classes=3)
    for name, parameter in model.backbone.body.named_parameters():
        assert torch.equal(parameter, weights[name])
        assert parameter.requires_grad == name.startswith(("layer2", "layer3", "layer4"))
    with pytest.raises(SystemExit, match=r"w.pth lacks \d+ of 265 tensors, layer1.0.conv1"):
        detection.build(options(weights=tmp_path / "w.pth"), classes=3)


# --- re-identification


def brute_force(query: tuple, gallery: tuple) -> dict[str, float]:
    precisions, firsts = [], []
    for feature, identity, camera in zip(*query, strict=True):
        ranked = sorted(
            (
                (-torch.cosine_similarity(feature, other, dim=0).item(), place, i == identity)
                for place, (other, i, c) in enumerate(zip(*gallery, strict=True))
                if not (i == identity and c == camera)
            ),
        )
        hits = [hit for _, _, hit in ranked]
        if any(hits):
            found = [sum(hits[: n + 1]) / (n + 1) for n, hit in enumerate(hits) if hit]
            precisions.append(sum(found) / len(found))
            firsts.append(float(hits[0]))
    return {"mAP": 100 * np.mean(precisions), "rank1": 100 * np.mean(firsts)}


@pytest.mark.parametrize("seed", range(5))
def test_retrieval_equals_brute_force(seed: int) -> None:
    torch.manual_seed(seed)

    def draw(count: int) -> tuple:
        return torch.randn(count, 6), torch.randint(0, 4, (count,)), torch.randint(1, 4, (count,))

    query, gallery = draw(7), draw(40)
    found = reid.retrieval(query, gallery)
    expected = brute_force(query, gallery)
    assert found == pytest.approx(expected, abs=1e-4)


def test_retrieval_of_a_worked_example() -> None:
    """Ranking: same camera (removed), right, wrong, right: AP = (1 + 2/3) / 2."""
    query = torch.tensor([[1.0, 0.0]]), torch.tensor([7]), torch.tensor([1])
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3]])
    gallery = features, torch.tensor([7, 7, 0, 7]), torch.tensor([1, 2, 1, 3])
    assert reid.retrieval(query, gallery) == pytest.approx({"mAP": 250 / 3, "rank1": 100})


def test_people_drop_junk_and_keep_distractors(tmp_path: Path) -> None:
    names = ["0002_c1s1_000451_03.jpg", "-1_c2s1_000001_01.jpg", "0000_c3s1_000001_01.jpg"]
    write_images(tmp_path / "test", [*names, "Thumbs.jpg"])
    people = reid.People(tmp_path / "test", lambda image: image, relabel=False)
    assert sorted(zip(people.identities, people.cameras, strict=True)) == [(0, 3), (2, 1)]


@pytest.mark.parametrize("name", ["resnet18", "test_resnet"])
def test_last_stride_is_one_and_the_neck_has_no_bias(name: str) -> None:
    model = reid.BNNeck(name, 5)
    last = model.backbone.layer4[0]
    features = torch.rand(1, last.conv1.in_channels, 4, 2)
    assert last(features).shape[-2:] == last.downsample(features).shape[-2:] == (4, 2)
    assert not model.neck.bias.requires_grad
    assert model.classifier.bias is None


# --- classification


def test_top5_accuracy_counts_the_five_best() -> None:
    outputs = torch.eye(7)[[0, 1, 2]] * 2 - torch.arange(7) / 10
    labels = torch.tensor([0, 6, 4])

    class Fixed(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return outputs

    found = classification.evaluate(Fixed(), [(torch.zeros(3), labels)], torch.device("cpu"))
    assert found["top1"] == pytest.approx(100 / 3)
    assert found["top5"] == pytest.approx(200 / 3)


# --- bad input, and a run of each program


@pytest.mark.parametrize(
    ("program", "needed"),
    [
        ("detection", "instances_train2017.json"),
        ("reid", "bounding_box_train"),
        ("classification", "train/<class>/"),
    ],
)
def test_missing_data_ends_in_one_line_and_makes_no_folder(
    program: str, needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(program, tmp_path / "nothing")
    assert done.code == 2
    assert needed in done.stderr.splitlines()[-1]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--env Nothing-v0", "Nothing"),
        ("--env Pendulum-v1", "Pendulum-v1 has no discrete actions"),
        ("--env FrozenLake-v1", "the observations of FrozenLake-v1 are not vectors"),
        ("--env Blackjack-v1", "the observations of Blackjack-v1 are not vectors"),
        ("--seed 10000", "--seed 10000 is not below 10000"),
    ],
)
def test_unsuitable_environment_ends_in_one_line(words: str, error: str) -> None:
    done = run("reinforce", *words.split())
    assert done.code == 2
    assert error in done.stderr.splitlines()[-1]


def test_reinforce_evaluates_other_episodes_than_it_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: dict[bool, list[int]] = {False: [], True: []}
    play = reinforce.play

    def spy(envs: list, policy: torch.nn.Module, some: range, greedy: bool) -> list:
        seeds[greedy] += some
        return play(envs, policy, some, greedy)

    monkeypatch.setattr(reinforce, "play", spy)
    words = ["--seed", 10, "--episodes", 12, "--evaluations", 2, "--hidden", 8]
    done = run("reinforce", *words, "--out", tmp_path)
    assert done.stdout.startswith("episode 12 return")
    assert len(seeds[False]) == 12
    assert not {*seeds[False]} & {*seeds[True]}


def write_photos(folder: Path) -> Path:
    for split in ("train", "test"):
        for name in ("a", "b"):
            write_images(folder / split / name, [f"{n}.png" for n in range(4)])
    return folder


def write_people(folder: Path, cameras: tuple[int, ...] = (1, 2), each: int = 2) -> Path:
    names = [
        f"{i:04d}_c{c}s1_000001_0{n}.png" for i in range(1, 5) for c in cameras for n in range(each)
    ]
    for part in ("bounding_box_train", "query", "bounding_box_test"):
        write_images(folder / part, names)
    return folder


PHOTOS = [
    "--model", "resnet18", "--size", 32, "--resize", 36, "--batch-size", 4, "--epochs", 1,
    "--drops",
]  # fmt: skip
PEOPLE = [
    "--model", "resnet18", "--height", 32, "--width", 16, "--identities", 2, "--images", 2,
    "--epochs", 1, "--warmup", 0, "--drops",
]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "words", "error"),
    [
        ("classification", "--batch-size 9", "8 training images are fewer than --batch-size 9"),
        ("classification", "--model nothing", "timm has no model nothing"),
        ("classification", "--epochs 0", "--epochs: 0 is not at least 1"),
        ("classification", "--batch-size x", "--batch-size: invalid whole number value: 'x'"),
        ("classification", "--lr -1", "--lr: -1 is not at least 0.0"),
        ("classification", "--head-lr nan", "--head-lr: nan is not at least 0.0"),
        ("classification", "--device nothing", "--device nothing cannot be used"),
        ("classification", "--size 99", "--size 99 is larger than --resize 36"),
        ("classification", "--train-size 9", "--train-size is 9, but"),
        ("classification", "--test-size 9", "test has 8 images"),
        ("classification", "--model test_vit --norm group", "needs a ResNet, not test_vit"),
        ("reid", "--identities 5 --images 1", "5 images of 5 identities or more"),
        ("reid", "--identities 2 --images 9", "has 16 of 4 in all"),
        ("reid", "--identities 1 --images 1", "batch normalization needs two images"),
        ("reid", "--model nothing", "timm has no model nothing"),
        ("reid", "--evaluate-every 0", "--evaluate-every: 0 is not at least 1"),
        ("reid", "--smoothing 2", "--smoothing: 2 is not at least 0.0 and at most 1.0"),
    ],
)
def test_unsuitable_options_end_in_one_line(
    program: str, words: str, error: str, tmp_path: Path
) -> None:
    write, common = {
        "classification": (write_photos, PHOTOS),
        "reid": (write_people, PEOPLE),
    }[program]
    done = run(program, write(tmp_path / "data"), *common, *words.split(), "--out", tmp_path / "o")
    assert done.code == 2
    assert error in done.stderr.splitlines()[-1]
    assert not (tmp_path / "o").exists()


def test_batch_that_processes_cannot_share_ends_in_one_line(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    for program, data, option in (
        ("classification", write_photos(tmp_path / "photos"), "--batch-size"),
        ("detection", scenes, "--batch-size"),
        ("reid", write_people(tmp_path / "people"), "--identities"),
    ):
        done = run(program, data, option, 4)
        assert done.code == 2
        assert done.stderr.endswith(f"{option} 4 cannot be split over 3 processes\n")


def test_reid_refuses_other_networks(tmp_path: Path) -> None:
    done = run("reid", write_people(tmp_path), *PEOPLE, "--model", "test_vit")
    assert done.code == 1
    assert done.stderr == "--model test_vit is not a ResNet\n"


def test_resuming_with_other_options_ends_in_one_line(tmp_path: Path) -> None:
    words = ["--episodes", 5, "--evaluations", 1, "--out", tmp_path]
    assert run("reinforce", *words, "--hidden", 8).code == 0
    done = run("reinforce", *words, "--hidden", 9, "--resume")
    assert done.code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "last.pt with these options: Error(s) in loading state_dict" in done.stderr


def test_one_camera_cannot_be_evaluated(tmp_path: Path) -> None:
    done = run("reid", write_people(tmp_path, cameras=(1,)), *PEOPLE, "--images", 1)
    assert done.code == 2
    assert "has a gallery image from another camera" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("count", "error"), [(2, "is one device, but there are 2 processes")])
def test_one_device_for_several_processes_ends_in_one_line(
    count: int, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(count))
    done = run("classification", write_photos(tmp_path), *PHOTOS, "--device", "cuda:3")
    assert done.code == 2
    assert error in done.stderr.splitlines()[-1]


def test_folder_that_is_a_file_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    done = run("reinforce", "--out", tmp_path / "out")
    assert done.code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be used as a folder" in done.stderr


def test_hidden_images_are_left_out(tmp_path: Path) -> None:
    write_photos(tmp_path)
    write_images(tmp_path / "train" / "a" / "@eaDir" / "0.png", ["thumb.png"])
    write_images(tmp_path / "train" / "a" / "more", ["._0.png", "4.gif"])
    images = classification.Photos(tmp_path / "train", None)
    assert sorted(Path(file).name for file, label in images.samples if label == 0) == [
        *("0.png", "1.png", "2.png", "3.png", "4.gif")
    ]
    assert program_data.find(registry.find("gc-table4-cub"), str(tmp_path)).train == 9
    assert training.SUFFIXES == image_files.SUFFIXES


def test_class_without_images_ends_in_one_line(tmp_path: Path) -> None:
    write_photos(tmp_path)
    (tmp_path / "train" / "c").mkdir()
    done = run("classification", tmp_path, *PHOTOS)
    assert done.code == 2
    assert "Found no valid file for the classes c" in done.stderr


@pytest.mark.parametrize("program", ["classification", "reid"])
def test_diverged_run_fails(program: str, tmp_path: Path) -> None:
    write, common = {
        "classification": (write_photos, PHOTOS),
        "reid": (write_people, [*PEOPLE, "--optimizer", "sgd"]),
    }[program]
    done = run(program, write(tmp_path / "data"), *common, "--lr", 1e30, "--out", tmp_path / "out")
    assert done.code == 1
    assert done.stderr.splitlines()[-1].startswith("epoch 1: the loss is ")
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_classifier_with_rate_zero_keeps_its_weights(tmp_path: Path) -> None:
    states = []
    for epochs in (1, 2):
        out = tmp_path / f"{epochs}"
        data = write_photos(tmp_path / f"data{epochs}")
        words = ["--head-lr", 0, "--lr", 0.01, "--weight-decay", 0, "--out", out]
        assert run("classification", data, *PHOTOS, *words, "--epochs", epochs).code == 0
        states.append(torch.load(out / "last.pt")["model"])
    assert torch.equal(states[0]["fc.weight"], states[1]["fc.weight"])
    assert not torch.equal(states[0]["conv1.weight"], states[1]["conv1.weight"])


def test_centers_follow_the_features_without_weight_in_the_loss(tmp_path: Path) -> None:
    data, states = write_people(tmp_path / "data"), []
    for rate in (0, 0.5):
        words = [*PEOPLE, "--center-weight", 0, "--center-lr", rate, "--out", tmp_path / "out"]
        done = run("reid", data, *words)
        assert done.code == 0, done.stderr
        states.append(torch.load(tmp_path / "out" / "last.pt"))
    still, moved = (state["centers"] for state in states)
    assert ((moved - still).abs().amax(1) > 0.1).all()
    # The features of a ResNet are not negative, so the centers move there.
    assert (moved.clamp(max=0) >= still.clamp(max=0)).all()
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name


@pytest.mark.slow
def test_centers_are_those_of_all_processes(tmp_path: Path) -> None:
    """In the only step each process draws half of 4 identities; together they draw three."""
    data, out = write_people(tmp_path / "data", each=1), tmp_path / "out"
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    program += ["zeromean.recipes.programs.reid", str(data), *map(str, PEOPLE), "--out", str(out)]
    program += ["--identities", "4"]
    subprocess.run([*program, "--center-lr", "1e6", "--device", "cpu"], check=True)
    centers = torch.load(out / "last.pt")["centers"]
    assert (centers.abs().amax(1) > 1e3).sum() == 3


def test_reinforce_resumes_to_the_same_policy(tmp_path: Path) -> None:
    common = ["--episodes", 20, "--evaluate-every", 10, "--evaluations", 1, "--hidden", 8]
    whole = run("reinforce", *common, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.stderr
    half = ["--episodes", 10, *common[2:], "--out", tmp_path / "half"]
    assert run("reinforce", *half).code == 0
    assert run("reinforce", *common, "--resume", "--out", tmp_path / "half").code == 0
    policies = [torch.load(tmp_path / name / "last.pt")["policy"] for name in ("whole", "half")]
    for name, value in policies[0].items():
        assert torch.equal(value, policies[1][name])
    assert [one["episode"] for one in curve(tmp_path / "half")] == [10, 20]
    state = torch.load(tmp_path / "half" / "last.pt")
    torch.save({**state, "episode": 10}, tmp_path / "half" / "last.pt")  # as if killed before it
    assert run("reinforce", *common, "--resume", "--out", tmp_path / "half").code == 0
    assert [one["episode"] for one in curve(tmp_path / "half")] == [10, 20]
    assert run("reinforce", *half).code == 0
    assert [one["episode"] for one in curve(tmp_path / "half")] == [10]


def test_classification_trains_and_resumes(tmp_path: Path) -> None:
    (write_photos(tmp_path) / "train" / ".ipynb_checkpoints").mkdir()
    common = [tmp_path, *PHOTOS, "--drops", 1, "--lr", 0.01, "--head-lr", 0.1, "--out"]
    done = run("classification", *common, tmp_path / "whole", "--epochs", 2)
    assert done.code == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("epoch 2 ")
    assert run("classification", *common, tmp_path / "half", "--epochs", 1).code == 0
    resumed = run("classification", *common, tmp_path / "half", "--epochs", 2, "--resume")
    assert resumed.stdout == done.stdout.splitlines(keepends=True)[-1]
    assert [one["epoch"] for one in curve(tmp_path / "half")] == [1, 2]
    assert run("classification", *common, tmp_path / "half", "--epochs", 1).code == 0
    assert [one["epoch"] for one in curve(tmp_path / "half")] == [1]


def test_classification_trains_with_group_normalization(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / split / "a", ["0.png", "1.png"])
    done = run(
        "classification", tmp_path, "--model", "resnet18", "--norm", "group", "--size", 32,
        "--resize", 36, "--batch-size", 2, "--epochs", 1, "--drops", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    state = torch.load(tmp_path / "out" / "last.pt")["model"]
    assert "bn1.weight" in state
    assert "bn1.running_mean" not in state


def test_reid_resumes_before_its_first_evaluation(tmp_path: Path) -> None:
    words = [write_people(tmp_path), *PEOPLE, "--lr", "1e-4", "--out", tmp_path / "out"]
    assert run("reid", *words, "--epochs", 3).code == 0
    whole = curve(tmp_path / "out")
    assert [one["epoch"] for one in whole] == [3]
    assert run("reid", *words, "--epochs", 1, "--evaluate-every", 2).code == 0
    (tmp_path / "out" / "metrics.jsonl").unlink()  # as if three epochs had been planned
    done = run("reid", *words, "--epochs", 3, "--resume")
    assert done.code == 0, done.stderr
    (last,) = curve(tmp_path / "out")
    assert last["loss"] == pytest.approx(whole[0]["loss"], rel=1e-6)


@pytest.mark.slow
def test_reid_trains(tmp_path: Path) -> None:
    words = [write_people(tmp_path), *PEOPLE, "--epochs", 2, "--evaluate-every", 1]
    for _ in range(2):
        done = run("reid", *words, "--out", tmp_path / "out")
        assert done.code == 0, done.stderr
        assert [one["epoch"] for one in curve(tmp_path / "out")] == [1, 2]


@pytest.mark.slow
def test_detection_trains_and_resumes(scenes: Path, tmp_path: Path) -> None:
    common = (
        scenes, "--backbone", "resnet18", "--norm", "group", "--masks", "--anchors", 14, 20, 28, 40,
        56, "--min-size", 64, "--max-size", 96, "--channels", 64, "--proposals", 100, "--rois", 32,
        "--drops", 1, "--warmup", 2, "--batch-size", 2, "--out",
    )  # fmt: skip
    done = run("detection", *common, tmp_path / "whole", "--epochs", 2)
    assert done.code == 0, done.stderr
    first, last = curve(tmp_path / "whole")
    assert (first["epoch"], last["epoch"]) == (1, 2)
    assert {"AP", "mask_AP50", "loss"} <= last.keys()
    for _ in range(2):
        assert run("detection", *common, tmp_path / "half", "--epochs", 1).code == 0
        assert len(curve(tmp_path / "half")) == 1
    resumed = run("detection", *common, tmp_path / "half", "--epochs", 2, "--resume")
    assert resumed.stdout == done.stdout.splitlines(keepends=True)[-1]
