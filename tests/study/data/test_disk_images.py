"""Images that exceed the memory limit: same numbers as in memory, and never half a file."""

from __future__ import annotations

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
from study_files import (
    CHANGES,
    patterns,
    write_imagefolder,
    write_miniimagenet,
    write_pictures,
    write_tar,
)

from zeromean.errors import ZeromeanError
from zeromean.study.data import image_files
from zeromean.study.data.dataset import Dataset
from zeromean.study.data.disk_images import (
    CACHE_VARIABLE,
    IMAGES,
    INDEX,
    MEMORY_VARIABLE,
    DiskImages,
    digests,
    images_in_memory,
    split,
)
from zeromean.study.data.image_files import ImageTransform
from zeromean.study.data.load import load_dataset
from zeromean.study.data.split import SplitSpec

UNLIMITED = "1000"


def folder(path: Path) -> str:
    return f"imagefolder:{write_pictures(path / 'files')}"


def archive(path: Path) -> str:
    write_pictures(path / "files")
    return f"imagefolder:{write_tar(path / 'a.tar.gz', path / 'files', parts=('val', 'train'))}"


def gray_files(path: Path) -> str:
    write_imagefolder(path / "gray")
    return f"imagefolder:{path / 'gray'}"


def mini(path: Path) -> str:
    write_miniimagenet(path / "mini", {"train": ("a", "b"), "test": ("c",), "val": ("d",)}, side=8)
    return f"miniimagenet:{path / 'mini'}"


def hub(path: Path) -> str:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["z", "a"])}
    )
    parts = {}
    for part, seed in (("train", 0), ("test", 1), ("validation", 2)):
        images, labels = patterns(12, 2, seed=seed)
        # Like ImageNet's test part, which has no labels.
        known = [-1] * 12 if part == "test" else labels.tolist()
        content = {"image": [Image.fromarray(one) for one in images], "label": known}
        parts[part] = datasets.Dataset.from_dict(content, features=features)
    datasets.DatasetDict(parts).save_to_disk(path / "hub")
    return f"hf:{path / 'hub'}"


def tensors(data: Dataset) -> list[torch.Tensor]:
    images = [torch.cat([*split(one, 5)]) for one in (data.train_images, data.test_images)]
    return [*images, data.train_labels, data.test_labels]


def load_both(
    text: str, transform: ImageTransform, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> tuple[Dataset, Dataset]:
    """The data in memory and on disk."""
    monkeypatch.setenv(MEMORY_VARIABLE, UNLIMITED)
    in_memory = load_dataset(text, transform)
    assert isinstance(in_memory.train_images, torch.Tensor)
    assert not cache.exists()
    monkeypatch.setenv(MEMORY_VARIABLE, "0")
    return in_memory, load_dataset(text, transform)


@pytest.mark.parametrize(
    "transform",
    [ImageTransform(12), ImageTransform(12, 10), ImageTransform(12, grayscale=True)],
    ids=["resize", "crop", "gray"],
)
@pytest.mark.parametrize("make", [folder, archive, mini, hub, gray_files])
def test_disk_holds_the_same_numbers_as_memory(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], str],
    transform: ImageTransform,
) -> None:
    text = make(tmp_path)
    if transform.grayscale and make in (gray_files, hub):
        for memory in ("0", UNLIMITED):
            monkeypatch.setenv(MEMORY_VARIABLE, memory)
            with pytest.raises(ZeromeanError, match=r"gray is set, but all images of .* are"):
                load_dataset(text, transform)
        assert not [*cache.glob("*/*")]
        return
    in_memory, on_disk = load_both(text, transform, monkeypatch, cache)
    assert isinstance(on_disk.train_images, DiskImages)
    assert on_disk.describe() == in_memory.describe()
    assert (on_disk.classes, on_disk.split) == (in_memory.classes, in_memory.split)
    assert all(map(torch.equal, tensors(on_disk), tensors(in_memory)))
    for one, other in (
        (on_disk.train_images, in_memory.train_images),
        (on_disk.test_images, in_memory.test_images),
    ):
        assert isinstance(one, DiskImages)
        assert isinstance(other, torch.Tensor)
        np.testing.assert_array_equal(digests(one), digests(other))
        values = other.long()
        sums = values.sum((0, 2, 3)), values.square().sum((0, 2, 3))
        assert all(map(torch.equal, one.channel_sums(), sums))


def test_parts_that_alternate_in_an_archive_are_separated(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_pictures(tmp_path / "files")
    parts = [f"{part}/{name}" for name in ("n02", "n01", "n03") for part in ("val", "train")]
    text = f"imagefolder:{write_tar(tmp_path / 'a.tar', files, parts=tuple(parts))}"
    in_memory, on_disk = load_both(text, ImageTransform(9), monkeypatch, cache)
    assert all(map(torch.equal, tensors(on_disk), tensors(in_memory)))
    assert in_memory.test_labels.bincount().tolist() == [4, 4, 4]


def test_images_on_disk_without_a_split_are_divided(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"imagefolder:{write_pictures(tmp_path / 'files') / 'train'}"
    in_memory, on_disk = load_both(text, ImageTransform(9), monkeypatch, cache)
    assert all(map(torch.equal, tensors(on_disk), tensors(in_memory)))
    whole = load_dataset(text, ImageTransform(9), SplitSpec(per_class=2, seed=3))
    assert whole.test_labels.bincount().tolist() == [2, 2, 2]


def test_batches_are_gathered_in_any_order(cache: Path, tmp_path: Path) -> None:
    images = load_dataset(folder(tmp_path), ImageTransform(12)).train_images
    assert isinstance(images, DiskImages)
    (tensor,) = split(images, len(images))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).view(6, -1)
    for rows, batch in zip(order, images.batches(order), strict=True):
        assert torch.equal(batch, tensor[rows])
    repeated = torch.tensor([7, 7, 0])
    assert torch.equal(*images.batches([repeated]), tensor[repeated])
    some = images[torch.tensor([5, 3, 8])][np.array([2, 0])][:1]
    assert isinstance(some, DiskImages)
    assert some.shape == (1, 3, 12, 12)
    assert torch.equal(*split(some, 1), tensor[8:9])


def test_a_batch_can_be_written_to_without_changing_the_file(cache: Path, tmp_path: Path) -> None:
    images = load_dataset(folder(tmp_path), ImageTransform(12)).train_images
    for size in (1, 5):
        before = torch.cat([*split(images, 48)])
        for batch in split(images, size):
            batch.fill_(7)
        assert torch.equal(torch.cat([*split(images, 48)]), before)


@pytest.mark.gpu
def test_batches_reach_the_gpu_without_synchronization(cache: Path, tmp_path: Path) -> None:
    images = load_dataset(folder(tmp_path), ImageTransform(12)).train_images
    (tensor,) = split(images, len(images))
    there = images.to(torch.device("cuda"))
    assert isinstance(there, DiskImages)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [*there.batches(torch.arange(48).view(6, -1))]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(torch.cat(batches).cpu(), tensor)


@pytest.mark.parametrize("make", [folder, archive, mini])
def test_cached_images_are_not_decoded_again(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    make: Callable[[Path], str],
) -> None:
    text = make(tmp_path)
    first = load_dataset(text, ImageTransform(12))
    assert capfd.readouterr().err.startswith(f"zeromean: decoding {text} into {cache}/")
    monkeypatch.setattr(image_files, "_decode", None)
    for memory in ("0", UNLIMITED):  # Even if memory would suffice.
        monkeypatch.setenv(MEMORY_VARIABLE, memory)
        again = load_dataset(text, ImageTransform(12))
        assert all(map(torch.equal, tensors(again), tensors(first)))
    monkeypatch.chdir(tmp_path)
    relative = load_dataset(text.replace(f"{tmp_path}/", ""), ImageTransform(12))
    assert all(map(torch.equal, tensors(relative), tensors(first)))
    assert capfd.readouterr().err == ""
    with pytest.raises(TypeError, match="not callable"):  # Another size is another folder.
        load_dataset(text, ImageTransform(11))


@pytest.mark.parametrize("change", CHANGES)
def test_changed_files_are_decoded_again_into_the_same_folder(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    text = folder(tmp_path)
    before = load_dataset(text, ImageTransform(12))
    change(tmp_path / "files")
    after = load_dataset(text, ImageTransform(12))
    assert not np.array_equal(digests(after.train_images), digests(before.train_images)) or (
        not torch.equal(after.train_labels, before.train_labels)
    )
    assert len([*cache.glob(f"*/{IMAGES}")]) == 1
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "other"))
    fresh = load_dataset(text, ImageTransform(12))
    assert all(map(torch.equal, tensors(after), tensors(fresh)))


def cut_short(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def overwritten(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def first_byte_changed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[0] ^= 99
    file.write_bytes(content)


def pixel_changed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 99
    file.write_bytes(content)


def last_record_changed(file: Path) -> None:
    """One label or channel sum in the Arrow file, or one class name in the index."""
    content = file.read_bytes()
    table = datasets.Dataset.from_file(str(file)) if file.name == IMAGES else None
    old = table[len(table) - 1]["record"][32:] if table else b"n03"
    assert content.count(old)
    file.write_bytes(content.replace(old, old[:-1] + b"9"))


@pytest.mark.parametrize(
    "damage",
    [
        last_record_changed,
        cut_short,
        emptied,
        overwritten,
        first_byte_changed,
        pixel_changed,
        Path.unlink,
    ],
)
@pytest.mark.parametrize("name", [IMAGES, INDEX])
def test_damaged_file_is_decoded_again(
    tmp_path: Path, cache: Path, name: str, damage: Callable[[Path], None]
) -> None:
    text = folder(tmp_path)
    before = tensors(load_dataset(text, ImageTransform(12)))
    (file,) = cache.glob(f"*/{name}")
    damage(file)
    assert all(map(torch.equal, tensors(load_dataset(text, ImageTransform(12))), before))
    assert file.stat().st_size > 0


PROGRAM = """
import sys
from zeromean.study.data.image_files import ImageTransform
from zeromean.study.data.load import load_dataset
from zeromean.study.data.disk_images import digests
images = load_dataset(sys.argv[1], ImageTransform(int(sys.argv[2]))).train_images
print(type(images).__name__, digests(images).sum())
"""


def start(text: str, side: int = 12, before: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-c", before + PROGRAM, text, str(side)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


HALFWAY = """
import time
from zeromean.study.data import disk_images
disk_images.WRITE_BATCH_BYTES = 10 * 3 * 64**2
disk_images.ImageCache._check_room = (
    lambda self, total, written: time.sleep(600 if written > total / 2 else 0)
)
"""


def test_killed_decoding_leaves_nothing_that_is_used(tmp_path: Path, cache: Path) -> None:
    text = folder(tmp_path)
    process = start(text, 64, before=HALFWAY)
    half = 20 * 3 * 64**2
    while process.poll() is None:
        if any(one.stat().st_size >= half for one in cache.glob(f"*.partial/{IMAGES}")):
            break
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert [one.suffix for one in sorted(cache.iterdir())] == [".lock", ".partial"]
    data = load_dataset(text, ImageTransform(64))
    assert len(data.train_labels) == 48
    assert [one.suffix for one in sorted(cache.iterdir())] == ["", ".lock"]


def test_one_of_two_processes_decodes(tmp_path: Path, cache: Path) -> None:
    text = folder(tmp_path)
    both = [start(text, 64) for _ in range(2)]
    printed = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0][0] == printed[1][0]
    assert printed[0][0].startswith("DiskImages ")
    assert sum(error.count("decoding imagefolder:") for _, error in printed) == 1


# Reading the file afterwards maps its pages, which count as memory on some kernels.
PEAK = """
import datasets, torch, zeromean.study.data.load
from pathlib import Path
from zeromean.study.data import disk_images
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
def sync(file, sync=disk_images._sync, before=peak()):
    print(peak() - before)
    sync(file)
disk_images._sync = sync
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux does")
def test_decoding_holds_few_images_in_memory(tmp_path: Path, cache: Path) -> None:
    for number in range(400):
        place = tmp_path / "many" / ("test" if number < 8 else "train") / f"{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number % 256, 0, 0)).save(place / f"{number}.png")
    side = 512  # 300 MB altogether
    process = start(
        f"imagefolder:{tmp_path / 'many'}",
        side,
        before=PEAK,
    )
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert 0 < int(out.split()[0]) < 400 * 3 * side**2 / 2


def refused(text: str, problem: str) -> None:
    with pytest.raises(ZeromeanError, match=problem) as error:
        load_dataset(text, ImageTransform(12))
    assert "\n" not in str(error.value)


Usage = namedtuple("Usage", "total used free")


def test_disk_without_room_is_refused_before_it_is_full(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = folder(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 9000, 9000))
    refused(
        text,
        "exceed the memory limit and take 2.59e-05 GB, but .* has room for 9e-06 GB. Free disk"
        " space, or set ZEROMEAN_CACHE to a folder on a larger disk",
    )
    assert [one.suffix for one in cache.iterdir()] == [".lock"]


def test_disk_that_fills_up_is_reported(tmp_path: Path, cache: Path) -> None:
    text = folder(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # As if the disk were full.
    try:
        refused(text, r"cannot be written to \(\[Errno 27\] .*Set ZEROMEAN_CACHE")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [one.suffix for one in cache.iterdir()] == [".lock"]


def test_cache_that_cannot_be_written_to_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = folder(tmp_path)
    cache.write_text("a file")
    refused(text, f"{cache} cannot be written to .*Set ZEROMEAN_CACHE to a folder")
    monkeypatch.setenv(MEMORY_VARIABLE, UNLIMITED)  # Memory needs no cache.
    assert len(load_dataset(text, ImageTransform(12)).train_labels) == 48


def test_cache_that_cannot_be_read_is_not_needed_in_memory(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = folder(tmp_path)
    load_dataset(text, ImageTransform(12))
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "datasets", None)
        refused(text, r"needs the package datasets, .*zeromean\[hub\]")
        context.setenv(MEMORY_VARIABLE, UNLIMITED)
        assert isinstance(load_dataset(text, ImageTransform(12)).train_images, torch.Tensor)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / ("x" * 300)))
    refused(text, "exceed the memory limit, but .* cannot be written to .*File name too long")
    monkeypatch.setenv(MEMORY_VARIABLE, UNLIMITED)
    assert isinstance(load_dataset(text, ImageTransform(12)).train_images, torch.Tensor)


def test_cache_of_an_unknown_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "~nobody-of-this-name/x")
    refused(folder(tmp_path), "ZEROMEAN_CACHE=~nobody-of-this-name/x is not a folder")


def test_broken_image_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    text = folder(tmp_path)
    (tmp_path / "files/val/n03/0011.JPEG").write_bytes(b"no image")
    refused(text, "0011.JPEG cannot be decoded")
    assert [one.suffix for one in cache.iterdir()] == [".lock"]


def test_memory_limit_is_an_eighth_of_the_free_memory_or_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(MEMORY_VARIABLE, "1.5")
    assert images_in_memory() == 1.5e9
    monkeypatch.delenv(MEMORY_VARIABLE)
    memory = namedtuple("memory", "total available")(16000, 8000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert images_in_memory() == 1000
    for text in ("-1", "much", "nan"):
        monkeypatch.setenv(MEMORY_VARIABLE, text)
        with pytest.raises(ZeromeanError, match=f"ZEROMEAN_IMAGE_MEMORY={text} is not a number"):
            images_in_memory()
