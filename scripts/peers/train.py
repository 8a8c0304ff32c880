#!/usr/bin/env python3
"""One training of one peer on rows that are in memory, inside the virtual environment that `scripts/bench peers` makes.

Usage: train.py ROWS.npz PEER THREADS SETTING...
       train.py --convert ROWS.libsvm ROWS.npz
Prints a JSON line for each SETTING until one is within GOAL (environment): setting, seconds of training, objective.
Every peer minimises (1/n) sum log(1 + exp(-y w.x)) + 1/(2n) |w|^2 without intercept; the objective is computed here.
"""

import json
import os
import sys
import time

import numpy as np
import scipy.sparse


def snapml(x, y, threads, rounds):
    from snapml import LogisticRegression
    model = LogisticRegression(max_iter=int(rounds), regularizer=1.0, tol=0.0, dual=True, n_jobs=threads, fit_intercept=False)
    start = time.perf_counter()
    model.fit(x, y)
    return time.perf_counter() - start, np.asarray(model.coef_).ravel()


PEERS = {"snapml": snapml}


def convert(text, rows):
    from sklearn.datasets import load_svmlight_file
    x, y = load_svmlight_file(text, dtype=np.float32)
    np.save(rows.removesuffix(".npz") + ".labels.npy", np.where(y > 0, 1.0, -1.0))
    scipy.sparse.save_npz(rows, x, compressed=False)


def main():
    if sys.argv[1] == "--convert":
        return convert(*sys.argv[2:])
    rows, peer, threads, *settings = sys.argv[1:]
    x = scipy.sparse.load_npz(rows)
    y = np.load(rows.removesuffix(".npz") + ".labels.npy")
    goal = float(os.environ.get("GOAL", "-inf"))
    for setting in map(float, settings):
        seconds, weights = PEERS[peer](x, y, int(threads), setting)
        margins = y * (x @ weights)
        objective = np.logaddexp(0, -margins).mean() + weights @ weights / (2 * len(y))
        print(json.dumps({"setting": setting, "seconds": seconds, "objective": objective}), flush=True)
        if objective <= goal:
            break


if __name__ == "__main__":
    main()
