"""Keras: two kinds of images in folders, RMSprop with and without Gradient Centralization.

    python examples/keras_image_folders.py TRAIN VALIDATION

TRAIN and VALIDATION contain one folder of images per class, for two classes. The network, the
augmentation and the settings are those of a tutorial on gradient-centralization-tf (horses or
humans, 300x300 pixels, 1027 + 256 images). In the tutorial the second run continues from the
trained weights of the first, and centralization has no effect. Here both runs start from the same
initial weights.

Needs Keras with a backend (KERAS_BACKEND=torch, jax or tensorflow), and Pillow.
"""

import argparse
import math
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

import zeromean.keras

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp"}


class ImageFolders(keras.utils.PyDataset):
    """Batches of scaled images and their labels, 0 or 1.

    Each epoch has ``most`` batches of the images in a new order; None: all of them, in order.
    """

    def __init__(self, folder: Path, size: int, batch: int, most: int | None, seed: int) -> None:
        super().__init__()
        classes = sorted(path for path in folder.iterdir() if path.is_dir())
        if len(classes) != 2:
            raise SystemExit(f"{folder} has {len(classes)} folders; two are needed, one per class")
        self.files = [
            (file, label)
            for label, path in enumerate(classes)
            for file in sorted(path.iterdir())
            if file.suffix.lower() in SUFFIXES
        ]
        self.size, self.batch, self.most = size, batch, most
        self.draw = np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        if self.most is not None:
            self.draw.shuffle(self.files)

    def __len__(self) -> int:
        batches = -(-len(self.files) // self.batch)
        return batches if self.most is None else min(self.most, batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        files = self.files[index * self.batch : (index + 1) * self.batch]
        images = [
            keras.utils.img_to_array(keras.utils.load_img(file, target_size=(self.size, self.size)))
            for file, _ in files
        ]
        return np.stack(images) / 255, np.array([[label] for _, label in files], "float32")


def network(size: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            # Augmentation, in training only. The tutorial's shear_range=0.2 is 0.2 degrees.
            layers.RandomRotation(40 / 360),
            layers.RandomTranslation(0.2, 0.2),
            layers.RandomShear(math.radians(0.2)),
            layers.RandomZoom(0.2),
            layers.RandomFlip("horizontal"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Dropout(0.5),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Dropout(0.5),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(512, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


def run(options: argparse.Namespace, centralized: bool) -> tuple[float, float, float]:
    """Train from new weights; return seconds, validation accuracy and validation loss."""
    keras.utils.set_random_seed(options.seed)  # the same weights, batches and augmentation
    model = network(options.size)
    optimizer = keras.optimizers.RMSprop(1e-4)
    if centralized:
        zeromean.keras.centralize(optimizer, model, at=options.at)  # the only change
    model.compile(optimizer, loss="binary_crossentropy", metrics=["accuracy"])
    if centralized:
        optimizer.build(model.trainable_variables)
        print(zeromean.keras.explain(optimizer))
    train = ImageFolders(options.train, options.size, options.batch, 8, options.seed)
    validation = ImageFolders(options.validation, options.size, 32, None, options.seed)
    start = time.perf_counter()
    model.fit(train, epochs=options.epochs, validation_data=validation, verbose=2)
    seconds = time.perf_counter() - start
    loss, accuracy = model.evaluate(validation, verbose=0)
    return seconds, accuracy, loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--size", type=int, default=300, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10, help="number of epochs, 8 batches each")
    parser.add_argument("--at", choices=("gradient", "update"), default="gradient")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = {
        "plain": run(options, centralized=False),
        "centralized": run(options, centralized=True),
    }
    print(f"{'method':<12} {'seconds':>8} {'accuracy':>9} {'loss':>7}")
    for method, (seconds, accuracy, loss) in table.items():
        print(f"{method:<12} {seconds:>8.1f} {accuracy:>9.3f} {loss:>7.4f}")
    print("One seed proves no difference; `zeromean compare` tests it over several seeds.")


if __name__ == "__main__":
    main()
