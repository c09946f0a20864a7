"""A folder of images to try metaimpute on: scikit-learn's handwritten digits, few of them labelled.

python examples/make_image_folder.py my_digits

writes my_digits/labelled/CLASS/ (40 images), my_digits/unlabelled/ (1,000) and, held back beside the folder,
my_digits_truth.csv with the true label of each unlabelled image under the id that ``metaimpute impute`` writes.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=int, default=40, help="labelled images, as many of each class")
    parser.add_argument("--unlabelled", type=int, default=1000)
    parser.add_argument("--test", type=int, default=0, help="further images, sorted into test/CLASS/")
    parser.add_argument("--seed", type=int, default=0, help="decides which images are drawn")
    given = parser.parse_args()

    pixels, targets = load_digits(return_X_y=True)
    images = np.clip(pixels.reshape(-1, 8, 8) * 255 / 16, 0, 255).astype(np.uint8)
    order = np.random.default_rng(given.seed).permutation(len(images))
    labelled = [int(i) for c in range(10) for i in order[targets[order] == c][: given.labels // 10]]
    rest = [int(i) for i in order if i not in set(labelled)]
    unlabelled, test = rest[: given.unlabelled], rest[given.unlabelled : given.unlabelled + given.test]

    for number, i in enumerate(labelled):
        save(images[i], given.folder / "labelled" / str(targets[i]) / f"{number:04d}.png")
    for number, i in enumerate(test):
        save(images[i], given.folder / "test" / str(targets[i]) / f"{number:04d}.png")
    truth = given.folder.with_name(f"{given.folder.name}_truth.csv")
    with truth.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["id", "label"])
        for number, i in enumerate(unlabelled):
            name = f"unlabelled/{number:04d}.png"
            save(images[i], given.folder / name)
            rows.writerow([name, targets[i]])
    print(
        f"wrote {len(labelled)} labelled and {len(unlabelled):,} unlabelled images to {given.folder}, truth to {truth}"
    )


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


if __name__ == "__main__":
    main()
