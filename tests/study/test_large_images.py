"""Images that do not fit into memory: their file changes no number, and is never half a file."""

from __future__ import annotations

import dataclasses
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from study_files import patterns, write_imagefolder, write_miniimagenet, write_tar
from test_conduct import PowerCut, records
from typer.testing import CliRunner

from zeromean.cli import app
from zeromean.errors import ZeromeanError
from zeromean.study import ImageTask, Study, Tuning
from zeromean.study.data.cache import MEMORY, PLACE, images_in_memory
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.disk_images import DiskImages, map_file, split
from zeromean.study.data.image_files import Album, ImageTransform
from zeromean.study.data.load import load_dataset
from zeromean.study.tasks.load import load as load_task
from zeromean.study.tasks.preprocessing import channel_moments

GIGANTIC = "1000"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where images are kept, all of which are too large for memory."""
    monkeypatch.setenv(PLACE, str(tmp_path / "cache"))
    monkeypatch.setenv(MEMORY, "0")
    return tmp_path / "cache"


def pictures(folder: Path) -> Path:
    """An ImageNet-style folder: colored JPEGs of all sizes, and a gray one, which is the first."""
    rng = np.random.default_rng(0)
    for part, (images, labels) in {"train": patterns(48), "val": patterns(12, seed=1)}.items():
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / part / ("n01", "n02", "n03")[label]
            place.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(np.stack([pixels, pixels // 2, 255 - pixels], axis=2))
            picture = picture.resize(tuple(rng.integers(20, 40, 2)))
            picture.save(place / f"{number:04d}.JPEG", quality=95)
    (folder / "train" / "n01" / "0000.JPEG").unlink()
    Image.new("L", (30, 20), 99).save(folder / "train" / "n01" / "0000.JPEG")
    return folder


def write_hub(folder: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["z", "a"])}
    )
    parts = {}
    for part, seed in (("train", 0), ("test", 1), ("validation", 2)):
        images, labels = patterns(12, 2, seed=seed)
        # As ImageNet has it: a test part that nobody is told the classes of.
        known = [-1] * 12 if part == "test" else labels.tolist()
        content = {"image": [Image.fromarray(one) for one in images], "label": known}
        parts[part] = datasets.Dataset.from_dict(content, features=features)
    datasets.DatasetDict(parts).save_to_disk(folder)


def a_folder(path: Path) -> str:
    return f"imagefolder:{pictures(path / 'files')}"


def an_archive(path: Path) -> str:
    pictures(path / "files")
    return f"imagefolder:{write_tar(path / 'a.tar.gz', path / 'files', parts=('val', 'train'))}"


def gray_files(path: Path) -> str:
    write_imagefolder(path / "gray")
    return f"imagefolder:{path / 'gray'}"


def mini(path: Path) -> str:
    write_miniimagenet(path / "mini", {"train": ("a", "b"), "test": ("c",), "val": ("d",)}, side=8)
    return f"miniimagenet:{path / 'mini'}"


def a_hub_set(path: Path) -> str:
    write_hub(path / "hub")
    return f"hf:{path / 'hub'}"


def whole(data: Dataset) -> list[torch.Tensor]:
    images = [torch.cat([*split(one, 5)]) for one in (data.train_images, data.test_images)]
    return [*images, data.train_labels, data.test_labels]


def both_ways(
    text: str, size: ImageTransform, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> tuple[Dataset, Dataset]:
    """The data in memory and in a file."""
    monkeypatch.setenv(MEMORY, GIGANTIC)
    in_memory = load_dataset(text, size)
    assert isinstance(in_memory.train_images, torch.Tensor)
    assert not cache.exists()
    monkeypatch.setenv(MEMORY, "0")
    return in_memory, load_dataset(text, size)


@pytest.mark.parametrize(
    "size",
    [ImageTransform(12), ImageTransform(12, 10), ImageTransform(12, grayscale=True)],
    ids=repr,
)
@pytest.mark.parametrize("make", [a_folder, an_archive, mini, a_hub_set, gray_files])
def test_a_file_holds_what_memory_would(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], str],
    size: ImageTransform,
) -> None:
    text = make(tmp_path)
    if size.grayscale and make in (gray_files, a_hub_set):
        for memory in ("0", GIGANTIC):
            monkeypatch.setenv(MEMORY, memory)
            with pytest.raises(ZeromeanError, match=r"gray with .*, whose images are; want"):
                load_dataset(text, size)
        assert not [*cache.glob("*/*")]
        return
    in_memory, in_file = both_ways(text, size, monkeypatch, cache)
    assert isinstance(in_file.train_images, DiskImages)
    assert in_file.describe() == in_memory.describe()
    assert (in_file.classes, in_file.split) == (in_memory.classes, in_memory.split)
    assert all(map(torch.equal, whole(in_file), whole(in_memory)))
    moments = [channel_moments(data.train_images) for data in (in_memory, in_file)]
    assert all(map(torch.equal, *moments))


def test_parts_that_alternate_in_an_archive_are_told_apart(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path / "files")
    parts = [f"{part}/{name}" for name in ("n02", "n01", "n03") for part in ("val", "train")]
    text = f"imagefolder:{write_tar(tmp_path / 'a.tar', folder, parts=tuple(parts))}"
    in_memory, in_file = both_ways(text, ImageTransform(9), monkeypatch, cache)
    assert all(map(torch.equal, whole(in_file), whole(in_memory)))
    assert in_memory.test_labels.bincount().tolist() == [4, 4, 4]


def test_a_batch_is_read_where_it_lies(cache: Path, tmp_path: Path) -> None:
    data = load_dataset(a_folder(tmp_path), ImageTransform(12))
    images = data.train_images
    assert isinstance(images, DiskImages)
    (tensor,) = split(images, len(images))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).view(6, -1)
    for rows, batch in zip(order, images.batches(order), strict=True):
        assert torch.equal(batch, tensor[rows])
    some = images[torch.tensor([5, 3, 8])][np.array([2, 0])][:1]
    assert isinstance(some, DiskImages)
    assert some.shape == (1, 3, 12, 12)
    assert torch.equal(*split(some, 1), tensor[8:9])


@pytest.mark.gpu
def test_a_batch_reaches_the_gpu_without_being_waited_for(cache: Path, tmp_path: Path) -> None:
    images = load_dataset(a_folder(tmp_path), ImageTransform(12)).train_images
    (tensor,) = split(images, len(images))
    there = images.to(torch.device("cuda"))
    assert isinstance(there, DiskImages)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [*there.batches(torch.arange(48).view(6, -1))]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(torch.cat(batches).cpu(), tensor)


def a_study(tmp_path: Path, **changes: object) -> Study:
    task = ImageTask(
        data=a_folder(tmp_path),
        model="cnn",
        resize=12,
        crop=8,
        augment="resized-crop-flip",
        epochs=2,
        batch_size=8,
    )
    task = replace(task, **changes)  # type: ignore[arg-type]
    return Study(tasks=(task,), seeds=1, threads=1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train_size": 30, "imbalance": 2.0},
        {"prepare": "pixel", "augment": "crop-flip", "gray": True},
        {"prepare": "zca", "crop": None},
    ],
    ids=["whole", "cut", "pixel", "zca"],
)
@pytest.mark.parametrize("tuned", [False, True])
def test_a_study_ends_the_same_wherever_its_images_are(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    tuned: bool,
) -> None:
    study = a_study(tmp_path, **changes)
    if tuned:
        study = replace(study, tuning=Tuning(rates=(0.01, 0.1), validation=0.25))
    monkeypatch.setenv(MEMORY, GIGANTIC)
    in_memory = run(study, tmp_path / "memory")
    monkeypatch.setenv(MEMORY, "0")
    in_file = run(study, tmp_path / "file")
    assert [*cache.glob("*/images.bin")]
    assert records(in_file) == records(in_memory)
    assert in_file.facts == in_memory.facts  # the digest among them


def test_a_study_begun_in_memory_goes_on_in_a_file_and_in_several_processes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = dataclasses.replace(a_study(tmp_path), seeds=2)
    monkeypatch.setenv(MEMORY, GIGANTIC)
    uncut = run(study, tmp_path / "uncut")
    with pytest.raises(RuntimeError, match="power cut"):
        run(study, tmp_path / "cut", watcher=PowerCut(2))
    monkeypatch.setenv(MEMORY, "0")
    assert records(run(study, tmp_path / "cut", jobs=2)) == records(uncut)


@pytest.mark.parametrize("make", [a_folder, an_archive, mini])
def test_what_is_kept_is_not_decoded_again(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    make: Callable[[Path], str],
) -> None:
    text = make(tmp_path)
    first = load_dataset(text, ImageTransform(12))
    assert capfd.readouterr().err.startswith(f"zeromean: {text} is decoded once, into {cache}/")
    monkeypatch.setattr(Album, "_decode", None)
    for memory in ("0", GIGANTIC):  # nor where memory would do
        monkeypatch.setenv(MEMORY, memory)
        assert all(map(torch.equal, whole(load_dataset(text, ImageTransform(12))), whole(first)))
    monkeypatch.chdir(tmp_path)
    relative = text.replace(f"{tmp_path}/", "")
    assert all(map(torch.equal, whole(load_dataset(relative, ImageTransform(12))), whole(first)))
    assert capfd.readouterr().err == ""
    with pytest.raises(TypeError, match="not callable"):  # another size is another file
        load_dataset(text, ImageTransform(11))


def added(folder: Path) -> None:
    shutil.copy(folder / "train/n01/0003.JPEG", folder / "train/n01/0004.JPEG")


def removed(folder: Path) -> None:
    (folder / "train/n01/0003.JPEG").unlink()


def renamed(folder: Path) -> None:
    (folder / "train/n01/0003.JPEG").rename(folder / "train/n02/0003.JPEG")


def rewritten(folder: Path) -> None:
    file = folder / "train/n01/0003.JPEG"
    Image.open(file).rotate(180).save(file, quality=95)


@pytest.mark.parametrize("change", [added, removed, renamed, rewritten])
def test_changed_files_are_decoded_anew_and_their_study_is_refused(
    tmp_path: Path, cache: Path, change: Callable[[Path], None]
) -> None:
    study = a_study(tmp_path)
    with pytest.raises(RuntimeError, match="power cut"):
        run(study, tmp_path / "out", watcher=PowerCut(1))
    change(tmp_path / "files")
    with pytest.raises(ZeromeanError, match="with other data than the study began with"):
        run(study, tmp_path / "out")
    assert len([*cache.glob("*/images.bin")]) == 1  # in the place of the old ones


def test_files_that_were_only_touched_go_on(tmp_path: Path, cache: Path) -> None:
    study = a_study(tmp_path)
    with pytest.raises(RuntimeError, match="power cut"):
        run(study, tmp_path / "out", watcher=PowerCut(1))
    (tmp_path / "files/train/n01/0003.JPEG").touch()
    assert records(run(study, tmp_path / "out")) == records(run(study, tmp_path / "anew"))


def cut_short(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def overwritten(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def rotten(file: Path) -> None:
    """One byte is another: of an archive, that of how its first entry is packed."""
    content = bytearray(file.read_bytes())
    content[content.rfind(b"PK\x01\x02") + 10 if content[:2] == b"PK" else 0] ^= 99
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, emptied, overwritten, rotten, Path.unlink])
@pytest.mark.parametrize("name", ["images.bin", "index.npz"])
def test_a_damaged_file_is_made_anew(
    tmp_path: Path, cache: Path, name: str, damage: Callable[[Path], None]
) -> None:
    text = a_folder(tmp_path)
    before = whole(load_dataset(text, ImageTransform(12)))
    (file,) = cache.glob(f"*/{name}")
    damage(file)
    assert all(map(torch.equal, whole(load_dataset(text, ImageTransform(12))), before))
    assert file.stat().st_size > 0


LOAD = """
import sys
from zeromean.study.data.image_files import ImageTransform
from zeromean.study.data.load import load_dataset
from zeromean.study.data.disk_images import digests
images = load_dataset(sys.argv[1], ImageTransform(int(sys.argv[2]))).train_images
print(type(images).__name__, digests(images).sum())
"""


def program(text: str, side: int = 12, before: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-c", before + LOAD, text, str(side)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


HALFWAY = """
import time
from zeromean.study.data.cache import Cache
Cache._check_room = lambda self, total, format_number: time.sleep(600 if format_number > total / 2 else 0)
"""


def test_a_killed_decode_leaves_nothing_that_is_taken_for_whole(
    tmp_path: Path, cache: Path
) -> None:
    text = a_folder(tmp_path)
    process = program(text, 64, before=HALFWAY)
    half = 30 * 3 * 64**2 - 2**16  # but for what is not format_number out yet
    while process.poll() is None:
        if any(one.stat().st_size >= half for one in cache.glob("*.begun/images.bin")):
            break
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert [one.suffix for one in sorted(cache.iterdir())] == [".begun", ".lock"]
    data = load_dataset(text, ImageTransform(64))
    assert len(data.train_labels) == 48
    assert [one.suffix for one in sorted(cache.iterdir())] == ["", ".lock"]


def test_of_two_processes_one_decodes(tmp_path: Path, cache: Path) -> None:
    text = a_folder(tmp_path)
    both = [program(text, 64) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0][0] == told[1][0]
    assert told[0][0].startswith("DiskImages ")
    assert sum(error.count("is decoded once") for _, error in told) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux does")
def test_the_first_decode_holds_few_images(tmp_path: Path, cache: Path) -> None:
    for number in range(400):
        place = tmp_path / "many" / ("test" if number < 8 else "train") / f"{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number % 256, 0, 0)).save(place / f"{number}.png")
    side = 512  # 300 MB altogether
    program_ = program(
        f"imagefolder:{tmp_path / 'many'}",
        side,
        before="import zeromean.study.data.load, torch, resource, atexit\n"
        "def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "start = used()\natexit.register(lambda: print(used() - start))\n",
    )
    out, error = program_.communicate(timeout=120)
    assert program_.returncode == 0, error
    assert int(out.split()[-1]) < 400 * 3 * side**2 / 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems promise memory in other ways")
def test_more_can_be_mapped_than_there_is_memory(tmp_path: Path) -> None:
    size = 2 * (psutil.virtual_memory().total + psutil.swap_memory().total)
    count = size // (3 * 256 * 256)
    file = tmp_path / "sparse"
    with file.open("wb") as opened:
        try:
            opened.truncate(count * 3 * 256 * 256)
        except OSError:
            pytest.skip("a file system without files that large")
    images = map_file(file, (count, 3, 256, 256))
    assert images[-1].sum() == 0


def refused(*words: str) -> str:
    """The one line that a study of images ends with."""
    arguments = ["compare", "--model", "mlp", "--epochs", "1", "--seeds", "1", *words]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
    (line,) = [one for one in result.stderr.splitlines() if "is decoded once" not in one]
    return line


Usage = namedtuple("Usage", "total used free")


def test_a_disk_without_room_is_told_before_it_is_full(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = a_folder(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 9000, 9000))
    line = refused("--data", text, "--resize", "12", "--out", str(tmp_path / "out"))
    assert "2.59e-05 GB or more of images of imagefolder:" in line
    assert f"9e-06 GB of room in {cache}; wanted room for them" in line
    assert "set ZEROMEAN_CACHE to a folder on a larger disk" in line
    assert [one.suffix for one in cache.iterdir()] == [".lock"]


def test_a_disk_that_fills_up_meanwhile_is_told(tmp_path: Path, cache: Path) -> None:
    text = a_folder(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # of a file, as if the disk were full
    try:
        line = refused("--data", text, "--resize", "12", "--out", str(tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "which cannot be format_number to ([Errno 27] File too large); wanted a folder with" in line
    assert [one.suffix for one in cache.iterdir()] == [".lock"]


def test_a_place_that_cannot_be_written_to_is_told(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = a_folder(tmp_path)
    cache.write_text("a file")
    line = refused("--data", text, "--resize", "12", "--out", str(tmp_path / "out"))
    assert f"{cache}, which cannot be format_number to" in line
    assert line.endswith("fix: set ZEROMEAN_CACHE to one")
    monkeypatch.setenv(MEMORY, GIGANTIC)  # nobody asks for it then
    assert len(load_dataset(text, ImageTransform(12)).train_labels) == 48


def test_a_place_of_a_user_that_there_is_not_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLACE, "~nobody-of-this-name/x")
    line = refused("--data", a_folder(tmp_path), "--resize", "12", "--out", str(tmp_path / "out"))
    assert line.endswith(
        "ZEROMEAN_CACHE=~nobody-of-this-name/x; wanted a folder; fix: mend or unset it"
    )


def test_a_broken_image_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    text = a_folder(tmp_path)
    (tmp_path / "files/val/n03/0011.JPEG").write_bytes(b"no image")
    line = refused("--data", text, "--resize", "12", "--out", str(tmp_path / "out"))
    assert "broken image" in line
    assert [one.suffix for one in cache.iterdir()] == [".lock"]


def test_how_much_memory_is_for_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MEMORY, "1.5")
    assert images_in_memory() == 1.5e9
    monkeypatch.delenv(MEMORY)
    assert 0 < images_in_memory() < psutil.virtual_memory().total / 7
    for text in ("-1", "much", "nan"):
        monkeypatch.setenv(MEMORY, text)
        with pytest.raises(ZeromeanError, match=f"ZEROMEAN_IMAGE_MEMORY={text}; wanted gigabytes"):
            images_in_memory()


def test_a_task_in_a_file_reads_none_of_it_to_be_told_apart(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = a_study(tmp_path)
    problem = load_task(study, study.tasks[0])
    monkeypatch.delattr(DiskImages, "_read")
    assert len(problem.digest()) == 64
    assert callable(problem.preprocess)  # which is fitted by then
