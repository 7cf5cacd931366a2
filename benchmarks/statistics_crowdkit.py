"""crowd-kit in the environment of its own that `benchmarks.statistics` is told of: it answers requests to be timed.

crowd-kit pulls in a deep-learning stack, hence is no development dependency. `serve` runs under that environment's
Python, which has numpy and pandas but nothing of Winnow. A request is one line of JSON on standard input, the answer
one line on standard output: {"method", "votes"} → {}, builds the data frame; {"calls"} → {"seconds"} for one call;
{"save"} → {}, writes what the last call found as .npz.
"""

from __future__ import annotations

import json
import sys
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np


def methods() -> dict[str, Callable[[Any], Any]]:
    """What can be asked for. The tolerance −∞ makes exactly that many steps: any other stops early."""
    # Here, because the parent lives where there is no crowd-kit.
    from crowdkit.aggregation import GLAD, DawidSkene, MajorityVote  # noqa: PLC0415

    return {
        "majority": lambda frame: MajorityVote().fit(frame),
        "dawid_skene": lambda frame: DawidSkene(n_iter=20, tol=-np.inf).fit(frame),
        "glad": lambda frame: GLAD(n_iter=10, tol=-np.inf).fit(frame),
    }


def serve() -> None:
    """Answer until standard input ends."""
    import pandas as pd  # noqa: PLC0415 - no dependency of Winnow's

    answers, sys.stdout = sys.stdout, sys.stderr  # what the library prints is no answer
    known = methods()
    last: Any = None
    for line in sys.stdin:
        request, answer = json.loads(line), {}
        if "votes" in request:
            with np.load(request["votes"]) as votes:
                frame = pd.DataFrame({"task": votes["item"], "worker": votes["annotator"], "label": votes["label"]})
            method = known[request["method"]]
        elif "calls" in request:

            def call(frame: Any = frame, method: Callable[[Any], Any] = method) -> None:
                nonlocal last
                last = method(frame)

            answer["seconds"] = timeit.timeit(call, number=request["calls"]) / request["calls"]
        else:
            np.savez(request["save"], **found(last))
        print(json.dumps(answer), file=answers, flush=True)


def found(fitted: Any) -> dict[str, Any]:
    """Label [n] and probabilities [n, K] by item and class; of GLAD also abilities [W] and easiness [n]."""
    probabilities = fitted.probas_.sort_index(axis=0).sort_index(axis=1)
    arrays = {"label": fitted.labels_.sort_index().to_numpy(), "q": probabilities.to_numpy()}
    if hasattr(fitted, "alphas_"):
        arrays |= {"ability": fitted.alphas_.sort_index().to_numpy(), "ease": fitted.betas_.sort_index().to_numpy()}
    return arrays
