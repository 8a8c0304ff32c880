"""Turns data files that scikit-learn's wheel carries into libsvm files. Features are scaled to at most 1 in size.

usage: wheel_sets.py WHEEL FOLDER
Writes FOLDER/breast-cancer.libsvm (malignant -1, benign +1), digits.libsvm (even +1, odd -1), wine.libsvm (the first of three
cultivars +1, the others -1) and diabetes.libsvm (numbers).
"""

import gzip
import os
import sys
import zipfile


def numbers(text, header=False, separator=","):
    lines = text.decode().splitlines()
    return [[float(x) for x in line.split(separator)] for line in lines[1 if header else 0 :]]


def write(folder, name, rows, labels):
    largest = [max(abs(x) for x in column) or 1.0 for column in zip(*rows)]
    aside = os.path.join(folder, f"{name}.{os.getpid()}.part")
    with open(aside, "w") as out:
        for row, label in zip(rows, labels):
            values = [(i + 1, x / most) for i, (x, most) in enumerate(zip(row, largest)) if x != 0]
            out.write(f"{label:g} " + " ".join(f"{i}:{x:.6g}" for i, x in values) + "\n")
    os.rename(aside, os.path.join(folder, f"{name}.libsvm"))


def main(wheel, folder):
    with zipfile.ZipFile(wheel) as packed:
        read = lambda name: packed.read(f"sklearn/datasets/data/{name}")
        cancer = numbers(read("breast_cancer.csv"), header=True)
        write(folder, "breast-cancer", [row[:-1] for row in cancer], [2 * row[-1] - 1 for row in cancer])
        digits = numbers(gzip.decompress(read("digits.csv.gz")))
        write(folder, "digits", [row[:-1] for row in digits], [1 - 2 * (row[-1] % 2) for row in digits])
        wine = numbers(read("wine_data.csv"), header=True)
        write(folder, "wine", [row[:-1] for row in wine], [1 if row[-1] == 0 else -1 for row in wine])
        rows = numbers(gzip.decompress(read("diabetes_data_raw.csv.gz")), separator=None)
        targets = numbers(gzip.decompress(read("diabetes_target.csv.gz")), separator=None)
        write(folder, "diabetes", rows, [row[0] for row in targets])


main(*sys.argv[1:])
