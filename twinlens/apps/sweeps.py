"""A sweep: several models and captioners as experiments on DVC's queue, where one that fails leaves the others alone.

DVC's queue does the work and survives the terminal; what is here plans, refuses what cannot run, enters what is missing
and tells how far all of it is. Run again, a sweep goes on where it was.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from twinlens.apps.steps import SETTINGS, Step, parse_settings, set_value, split_setting
from twinlens.config.params import Params
from twinlens.config.yaml_file import parse_yaml
from twinlens.core.errors import ParamsError, TwinLensError

MADE = ("dvc.lock", "metrics")  # what an experiment makes anew in git; beside it, it changes the files of its settings
QUEUED, RUNNING, FAILED, DONE = "queued", "running", "failed", "done"
STAGE = re.compile(r"^Running stage '([^']+)'", re.MULTILINE)
OF_DVC = re.compile(
    r"> |Running stage|Stage '|Updating lock file|ERROR: failed to reproduce|WARNING: No file hash info"
)
LAST_WORDS = 6  # lines of a log that are told of a failure
NOT_HERE_S = 30.0  # that an experiment may be in none of the queue's lists, on its way from one to the next
POLL_S = 1.0


def refuse_what_does_not_fit(params: Params, steps: Sequence[Step]) -> list[str]:
    """Refuse models whose weights alone need more memory than there is; returns the models of which that is not known.

    Raises:
        ParamsError: there are such; each is named with what it needs.
    """
    from twinlens.core.device import choose_device
    from twinlens.models.sizes import measure_available, measure_need

    room = measure_available(choose_device(params.compute.device).device)
    needs = {model: measure_need(params.models[model]) for model in dict.fromkeys(one.choice["model"] for one in steps)}
    if large := {model: need for model, need in needs.items() if need is not None and need > room}:
        told = ", ".join(f"{model} {need / 1e9:,.1f} GB" for model, need in large.items())
        raise ParamsError(
            f"there are {room / 1e9:,.1f} GB of memory on {params.compute.device}, and the weights alone need more: "
            f"{told}. Leave {'it' if len(large) == 1 else 'them'} out, or sweep on a larger machine; nothing was begun"
        )
    return [model for model, need in needs.items() if need is None]


def refuse_unknown_to_git(steps: Sequence[Step]) -> None:
    """Refuse cards that git does not know: DVC's queue works in a copy of what git knows.

    Raises:
        ParamsError: there are some; the message has the command.
    """
    files = {
        Path(f"cards/{kind}s/{one.choice[kind]}.yaml") for one in steps for kind in ("dataset", "model", "captioner")
    }
    unknown = run_command("git", "ls-files", "--others", "--exclude-standard", "--", *map(str, sorted(files))).split(
        "\n"
    )
    if names := [name for name in unknown if name]:
        raise ParamsError(
            f"the queue runs on what git knows, and it does not know {', '.join(names)}: git add {' '.join(names)}"
        )


class Queue:
    """DVC's queue of experiments, and those that are finished, of the commit that is checked out."""

    @cached_property
    def _repo(self) -> Any:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        try:
            return Repo()
        except DvcException as error:
            raise TwinLensError(f"{error}. Run from the root of the repository") from None

    @cached_property
    def baseline(self) -> str:
        """The commit."""
        return str(self._repo.scm.get_rev())

    def _ref(self, step: Step) -> str:
        from dvc.repo.experiments.refs import ExpRefInfo

        return str(ExpRefInfo(baseline_sha=self.baseline, name=step.name))

    def is_finished(self, step: Step) -> bool:
        """Whether there is such an experiment, of the code, the cards and the settings as they are now."""
        ref = self._ref(step)
        if not self._repo.scm.get_ref(ref):
            return False
        pairs = [split_setting(one) for one in step.pairs]
        files = dict.fromkeys([SETTINGS, *(file for file, _, _ in pairs)])
        others = [f":(exclude){path}" for path in (*MADE, *files)]
        if subprocess.run(["git", "diff", "--quiet", ref, "--", ".", *others], check=False).returncode:
            return False
        for file in files:
            made = parse_settings(run_command("git", "show", f"{ref}:./{file}"), file)
            wanted = parse_settings(Path(file).read_text("utf-8"), file)
            for key, value in [(key, value) for of, key, value in pairs if of == file]:
                set_value(wanted, key, parse_yaml(value.encode(), key))
            speed = {"compute": None} if file == SETTINGS else {}
            if made | speed != wanted | speed:
                return False
        return True

    def states(self, steps: Sequence[Step]) -> dict[str, str]:
        """What the queue knows of the steps, by name; those it does not know are left out."""
        queue = self._repo.experiments.celery_queue
        names = {step.name for step in steps}
        found: dict[str, str] = {}
        # A name may be there several times, of earlier sweeps: what is not done yet counts.
        for state, entries in (
            (DONE, (done.entry for done in queue.iter_success())),
            (FAILED, (done.entry for done in queue.iter_failed())),
            (QUEUED, queue.iter_queued()),
            (RUNNING, queue.iter_active()),
        ):
            found |= {one.name: state for one in entries if one.name in names and one.baseline_rev == self.baseline}
        return found

    def is_orphan(self, name: str) -> bool:
        """Whether the process of a running experiment is gone without a result; the queue goes on calling it that."""
        queue = self._repo.experiments.celery_queue
        for entry in queue.iter_active():
            if entry.name == name:
                try:
                    info = queue.proc[entry.stash_rev]
                except (KeyError, OSError):  # on its way
                    return False
                return info.returncode is None and not _is_alive(info.pid)
        return False

    def put(self, step: Step) -> None:
        """Enter a step; what is left of an earlier one of its name makes way.

        Raises:
            TwinLensError: DVC refuses it.
        """
        if (state := self.states([step]).get(step.name)) is not None:
            if state == RUNNING:  # whose worker is gone
                run_command("dvc", "queue", "kill", "--force", step.name)
            run_command("dvc", "queue", "remove", step.name)
        if self._repo.scm.get_ref(self._ref(step)):  # `--force` would replace it too, but run every stage anew
            run_command("dvc", "exp", "remove", step.name)
        run_command("dvc", "exp", "run", "--queue", "--name", step.name, *step.options)

    def start(self, jobs: int) -> None:
        """Start the workers, so many at the most; they end by themselves."""
        # They inherit the output: a pipe would never end.
        subprocess.run(
            ["dvc", "queue", "start", "--jobs", str(jobs)],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def log(self, name: str) -> str:
        """Read what an experiment has said so far; empty where nothing is known."""
        queue = self._repo.experiments.celery_queue
        for entry in (*queue.iter_active(), *(done.entry for done in queue.iter_done())):
            if entry.name == name:
                try:
                    return Path(queue.proc[entry.stash_rev].stdout).read_text(encoding="utf-8", errors="replace")
                except (KeyError, OSError):
                    return ""
        return ""

    def watch(self, steps: Sequence[Step], jobs: int) -> Iterator[dict[str, str]]:
        """Iterate over the states of the steps, about once a second, until all are done or have failed.

        An experiment whose worker was killed has failed, and the others get new ones.
        """
        last_seen = {step.name: time.monotonic() for step in steps}
        last_run = time.monotonic()
        while True:
            states, now = self.states(steps), time.monotonic()
            if RUNNING in states.values():
                last_run = now
            elif now - last_run > NOT_HERE_S and QUEUED in states.values():  # its worker was killed
                self.start(jobs)
                last_run = now
            states = {
                name: "" if state == RUNNING and self.is_orphan(name) else state for name, state in states.items()
            }
            for name, seen in last_seen.items():
                if states.get(name):
                    last_seen[name] = now
                elif now - seen > NOT_HERE_S:  # taken out by hand, or its worker was killed
                    states[name] = FAILED
                else:
                    states[name] = RUNNING
            yield states
            if all(state in (DONE, FAILED) for state in states.values()):
                return
            time.sleep(POLL_S)


def read_stage(log: str) -> str:
    """Read from a log which stage is running; empty where none has begun."""
    found = STAGE.findall(log)
    return found[-1].split("@")[0] if found else ""


def read_last_words(log: str) -> list[str]:
    """Read the last lines of a log that say why it ended: without bars, and without DVC's own words on it."""
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in log.splitlines()]
    telling = [line for line in lines if line and not OF_DVC.match(line)]
    return telling[-LAST_WORDS:]


def _is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # one that has ended and that nobody asked about still has its number
        return Path(f"/proc/{number}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def run_command(*command: str) -> str:
    """Run a command; returns what it printed.

    Raises:
        TwinLensError: it failed; with its last line.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise TwinLensError(f"{command[0]} is not installed, or not on the PATH") from None
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines() or ["no word"]
        raise TwinLensError(f"`{' '.join(command)}` failed: {told[-1]}")
    return done.stdout
