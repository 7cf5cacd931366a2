"""A stand-in for the engine: the same command line and files, no torch, and it can be told how to end.

Its “weight” after a step depends on every step before, so a lost, doubled or wrong step shows. The object `toy` of the
request says what to do; its `ends` maps an attempt (the name of the output directory) to how it ends:
`{"1": {"at": 7, "do": "exit", "code": 3}}`, do = exit, kill, hang, no_result, status, memory, disk, abort.
`ballast` is how many bytes a checkpoint takes more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import select
import signal
import sys
import threading
import time
from pathlib import Path

stop_asked = threading.Event()
checkpoint_asked = threading.Event()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("request", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--lease", type=float, default=60)
    parser.add_argument("--supervised", action="store_true")
    options = parser.parse_args()
    toy = json.loads(options.request.read_text())["toy"]
    threading.Thread(target=watch, args=(max(options.lease * 0.7, 0.3),), daemon=True).start()
    end = toy.get("ends", {}).get(options.out.name, {})
    sys.stderr.write(toy.get("stderr", ""))
    sys.stderr.flush()
    if options.command == "sample":
        sample(toy, end, options)
    else:
        train(toy, end, options)


def watch(silence: float) -> None:
    while True:
        ready, _, _ = select.select([0], [], [], silence)
        received = os.read(0, 4096) if ready else b""
        if not received:
            os.killpg(0, signal.SIGKILL)
        if b"s" in received:
            stop_asked.set()
        if b"c" in received:
            checkpoint_asked.set()


def train(toy: dict, end: dict, options: argparse.Namespace) -> None:
    out, step, weight = options.out, 0, 1
    if options.resume:
        state = json.loads((options.resume / "state.json").read_text())
        step, weight = state["step"], state["weight"]
    steps = toy.get("steps", 10)
    saved = None
    with (out / "metrics.jsonl").open("a") as metrics, (out / "samples.jsonl").open("a") as samples:
        while step < steps and not (stop_asked.is_set() and not toy.get("deaf")):
            tell(out, "training", step, steps)
            if end and step == end["at"]:
                finish_early(end, out)
            time.sleep(toy.get("step_seconds", 0.02))
            step, weight = step + 1, after(weight, step + 1)
            metrics.write(
                json.dumps({"step": step, "time": time.time(), "tokens": 8 * step, "train/loss": weight}) + "\n"
            )
            metrics.flush()
            if step % toy.get("every", 5) == 0 or checkpoint_asked.is_set():
                checkpoint_asked.clear()
                samples.write(json.dumps({"step": step, "prompt_id": "p", "completion": "hello"}) + "\n")
                samples.flush()
                saved = save(out, step, weight, toy.get("ballast", 0))
                for old in sorted((out / "checkpoints").glob("step-*"), key=lambda p: int(p.name[5:]))[:-2]:
                    remove(old)
    tell(out, "ending", step, steps)
    if step < steps:
        saved = save(out, step, weight, toy.get("ballast", 0))
    status = "done" if step == steps else "stopped"
    (out / "result.json").write_text(
        json.dumps(
            {
                "status": status,
                "reason": None,
                "step": step,
                "metrics": {"train/loss": weight},
                "checkpoints": {"best": saved, "last": saved},
            }
        )
    )


def after(weight: int, step: int) -> int:
    return (weight * 31 + step) % 1_000_003


def curve(steps: int) -> dict[int, int]:
    """What an uninterrupted run writes: step → weight."""
    weight, values = 1, {}
    for step in range(1, steps + 1):
        weight = values[step] = after(weight, step)
    return values


def finish_early(end: dict, out: Path) -> None:
    match end["do"]:
        case "kill":
            os.killpg(0, signal.SIGKILL)
        case "hang":
            time.sleep(3600)
        case "no_result":
            os._exit(0)
        case "status":
            (out / "result.json").write_text(json.dumps({"status": end["status"], "reason": end.get("reason")}))
            os._exit(0)
        case "memory":  # more than the system gives: a MemoryError that nobody catches
            resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
            bytearray(2**32)
        case "disk":
            with Path("/dev/full").open("w") as full:
                full.write("a checkpoint")
        case "abort":  # as a C++ library does: last words, and no error.json
            sys.stderr.write(end["words"])
            sys.stderr.flush()
            os.abort()
        case "exit":
            if "kind" in end:
                (out / "error.json").write_text(json.dumps({"kind": end["kind"], "message": end["message"]}))
            os._exit(end["code"])


def sample(toy: dict, end: dict, options: argparse.Namespace) -> None:
    total = toy.get("steps", 10)
    kept = options.resume.read_text().splitlines() if options.resume else []
    with (options.out / "completions.jsonl").open("w") as file:
        for line in kept:
            file.write(line + "\n")
        for index in range(len(kept), total):
            if end and index == end["at"]:
                file.flush()
                finish_early(end, options.out)
            file.write(json.dumps({"prompt_id": "p", "index": index, "text": f"text {index}\x00"}) + "\n")
            file.flush()
            time.sleep(toy.get("step_seconds", 0.02))
    (options.out / "result.json").write_text(json.dumps({"status": "done", "step": total}))


def tell(out: Path, phase: str, step: int, steps: int) -> None:
    draft = out / ".status"
    draft.write_text(
        json.dumps({"phase": phase, "step": step, "steps": steps, "tokens_per_second": 8.0, "eta_seconds": 1.0})
    )
    draft.replace(out / "status.json")


def save(out: Path, step: int, weight: int, ballast: int) -> dict:
    partial = out / "checkpoints" / f".partial-step-{step}"
    partial.mkdir(parents=True, exist_ok=True)
    state = json.dumps({"step": step, "weight": weight}).encode()
    (partial / "state.json").write_bytes(state)
    (partial / "ballast").write_bytes(b"x" * ballast)
    manifest = {
        "step": step,
        "files": [{"path": "state.json", "bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()}],
    }
    (partial / "manifest.json").write_text(json.dumps(manifest))
    target = partial.with_name(f"step-{step}")
    if target.exists():
        remove(target)
    partial.rename(target)
    return {
        "path": f"checkpoints/step-{step}",
        "step": step,
        "sha256": hashlib.sha256((target / "manifest.json").read_bytes()).hexdigest(),
    }


def remove(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


if __name__ == "__main__":
    main()
