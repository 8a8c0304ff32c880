#!/usr/bin/env python3
"""One training of one peer, inside the virtual environment that `scripts/bench peers` makes.

Usage: train.py ROWS.npz PEER THREADS SETTING...   PEER: snapml, celer, saga
       train.py ROWS.vw vw BITS SETTING
       train.py --convert ROWS.libsvm ROWS.npz
       train.py --convert ROWS.libsvm ROWS.vw
Prints a JSON line for each SETTING until one is within GOAL (environment): setting, seconds, objective. Without intercept;
labels are -1 and +1; the objective is computed here, over n rows:
snapml  (1/n) sum log(1 + exp(-y w.x)) + 1/(2n) |w|^2; SETTING is a number of rounds
celer, saga  the same under lambda |w|_1, after a path of PATH lambdas (environment) from the largest that leaves a weight
        down to 1/n; SETTING is a tolerance; the objective is that of the last
vw      one pass over the file; the objective is the progressive loss; SETTING is more of its flags
"""

import json
import os
import resource
import sys
import time


def snapml(x, y, threads, rounds):
    from snapml import LogisticRegression
    model = LogisticRegression(max_iter=int(rounds), regularizer=1.0, tol=0.0, dual=True, n_jobs=threads, fit_intercept=False)
    start = time.perf_counter()
    model.fit(x, y)
    return time.perf_counter() - start, model.coef_


def lambdas(x, y):
    """Those of the path, times n."""
    import numpy as np
    return np.geomspace(abs(x.T @ y).max() / 2, 1.0, int(os.environ["PATH_LENGTH"]))


def celer(x, y, _, tolerance):
    from celer.homotopy import celer_path
    columns = x.tocsc().astype("float64")
    start = time.perf_counter()
    coefficients = celer_path(columns, y, "logreg", alphas=lambdas(x, y), tol=tolerance)[1]
    return time.perf_counter() - start, coefficients[:, -1]


def saga(x, y, _, tolerance):
    from sklearn.linear_model import LogisticRegression
    model = LogisticRegression(l1_ratio=1.0, solver="saga", tol=tolerance, max_iter=1000, fit_intercept=False, warm_start=True)
    start = time.perf_counter()
    for strength in lambdas(x, y):
        model.set_params(C=1 / strength).fit(x, y)
    return time.perf_counter() - start, model.coef_


PEERS = {"snapml": snapml, "celer": celer, "saga": saga}


def vw(rows, bits, flags):
    from vowpalwabbit import Workspace
    start = time.perf_counter()
    learner = Workspace(f"--quiet --loss_function logistic --noconstant -b {bits} {flags}", data=rows)
    learner.finish()
    seconds = time.perf_counter() - start
    count = learner.get_weighted_examples()
    return {"setting": flags, "seconds": seconds, "objective": learner.get_sum_loss() / count, "rows": count}


def convert(text, rows):
    if rows.endswith(".vw"):
        with open(text) as lines, open(rows, "w") as out:
            for line in lines:
                label, _, features = line.rstrip("\n").partition(" ")
                out.write(f"{1 if float(label) > 0 else -1} | {features}\n")
        return
    import numpy as np
    import scipy.sparse
    from sklearn.datasets import load_svmlight_file
    x, y = load_svmlight_file(text, dtype=np.float32)
    np.save(rows.removesuffix(".npz") + ".labels.npy", np.where(y > 0, 1.0, -1.0))
    scipy.sparse.save_npz(rows, x, compressed=False)


def main():
    if sys.argv[1] == "--convert":
        return convert(*sys.argv[2:])
    rows, peer, number, *settings = sys.argv[1:]
    if peer == "vw":
        return print(json.dumps(vw(rows, number, settings[0])))
    import numpy as np
    import scipy.sparse
    x = scipy.sparse.load_npz(rows)
    y = np.load(rows.removesuffix(".npz") + ".labels.npy")
    if peer != "snapml":
        # These hold a weight for each column and lambda: of 16 million columns most are empty.
        x = x[:, np.flatnonzero(np.bincount(x.indices, minlength=x.shape[1]))]
    goal = float(os.environ.get("GOAL", "-inf"))
    for setting in map(float, settings):
        seconds, weights = PEERS[peer](x, y, int(number), setting)
        weights = np.asarray(weights, dtype="float64").ravel()
        penalty = weights @ weights / 2 if peer == "snapml" else abs(weights).sum()
        objective = np.logaddexp(0, -y * (x @ weights)).mean() + penalty / len(y)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"setting": setting, "seconds": seconds, "objective": objective, "memory": memory}), flush=True)
        if objective <= goal:
            break


if __name__ == "__main__":
    main()
