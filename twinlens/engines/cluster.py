"""The engine that is a Ray cluster: an actor for each GPU (or core), which this process, the driver, gives parts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinlens.config.params import ComputeParams
from twinlens.core.errors import ClusterError, ResourceError
from twinlens.engines import connection
from twinlens.engines.actor import Actor, Outcome
from twinlens.engines.backlog import DEPTH, Backlog, Entry
from twinlens.engines.base import Engine, R, T, Worker
from twinlens.engines.sites import Sight, Site, list_versions, see

if TYPE_CHECKING:
    from twinlens.core.device import Placement
    from twinlens.core.progress import Progress

log = logging.getLogger("twinlens")

LOOKS_EVERY_S = 2.0  # for nodes that have joined or gone
START_S = 300.0  # within which a first worker is there
MORE = 8  # actors beyond what the cluster has room for: they take the place of lost ones, and of nodes that join
TOLD = 3  # losses of workers that are told one by one


@dataclass(eq=False)
class _Hand:
    """An actor: asked to describe itself, and at work once it has."""

    name: str
    actor: Any
    described: Any  # a reference; None when it is ready
    site: Site | None = None
    busy: int = 0
    alone: bool = False  # with a suspect, beside which it gets nothing
    items: int = 0
    ready_at: float = 0.0


@dataclass(frozen=True)
class _Sent:
    hand: _Hand
    entry: Entry


class RayEngine(Engine):
    """A Ray cluster. One actor for each GPU where models run on GPUs, else for each core."""

    def __init__(self, compute: ComputeParams, placement: Placement | None = None, device: str | None = None) -> None:
        super().__init__(compute, placement, device)
        self.started = 0  # actors so far
        self.lost = 0
        self._ray: Any = None
        self._owns = False  # whether this engine connected, and disconnects
        self._hands: dict[str, _Hand] = {}
        self._sent: dict[Any, _Sent] = {}
        self._most = 0  # workers that were ready at one time
        self._machine: str | None = None
        self._refused = 0  # actors whose surroundings were others than the driver's
        self._looked = self._starts_after = 0.0
        self._failed_starts = 0  # one after the other
        self._made = False  # whether a part of this call was made
        self._slots = 0

    @property
    def workers(self) -> int:
        """See `Engine.workers`: the most that were there at one time."""
        return self._most

    @property
    def machine(self) -> str | None:
        """See `Engine.machine`."""
        return self._machine

    def map(
        self,
        worker: Worker[T, R],
        tasks: Iterable[T],
        bar: Progress | None = None,
    ) -> Iterator[R]:
        """See `Engine.map`.

        Raises:
            ClusterError: the workers are not fit for it, or there are none, or a part failed three times.
        """
        backlog = Backlog(tasks)
        if not backlog.look_ahead(1):
            return
        self._connect()
        from ray import cloudpickle

        payload = cloudpickle.dumps(worker)
        sights = see(path for one in (worker, backlog.first) for path in getattr(one, "paths", ()))
        self._sent.clear()  # of an earlier call that was broken off
        for hand in self._hands.values():
            hand.busy, hand.alone, hand.items, hand.ready_at = 0, False, 0, time.monotonic()
        self._made, with_workers = False, time.monotonic()
        while (waiting := backlog.look_ahead(DEPTH * max(1, self._slots) + 1)) or self._sent:
            self._staff(waiting + len(self._sent))
            ready = [hand for hand in self._hands.values() if hand.described is None]
            if ready:
                with_workers = time.monotonic()
            elif time.monotonic() - with_workers > START_S:
                raise ClusterError(self._tell_absence())
            self._deal(backlog, ready, payload, sights)
            for ref in self._wait():
                yield from self._receive(ref, backlog, bar)

    def _connect(self) -> None:
        if self._ray is None:
            self._ray, self._owns = connection.connect(self.compute.address)

    # ---------------------------------------------------------------- actors

    @property
    def _gpu(self) -> bool:
        return self.placement.device.type == "cuda"

    def _choose_placement(self) -> Placement:
        from twinlens.core.device import choose_device

        device = connection.check_device(self.device)
        pixels = self.compute.pixels if self.device == self.compute.device else "cpu"
        if device == "cpu":
            return choose_device("cpu", pixels)
        self._connect()
        if not connection.count("GPU"):
            if device == "cuda":
                raise ClusterError("compute.device is cuda, and no node of the cluster has a GPU: write auto or cpu")
            return choose_device("cpu", pixels)
        hand = self._start(gpu=True)
        found: Placement = self._await(hand)
        return found

    def _start(self, gpu: bool) -> _Hand:
        pixels = self.compute.pixels if gpu else "cpu"
        cores = connection.count_cores_a_worker(gpu)
        kind = self._ray.remote(Actor).options(
            num_cpus=0 if gpu else 1, num_gpus=1 if gpu else 0, max_restarts=0, max_concurrency=DEPTH + 2
        )
        self.started += 1
        actor = kind.remote(str(Path.cwd()), "cuda" if gpu else "cpu", pixels, cores)
        hand = _Hand(f"worker {self.started}", actor, actor.describe.remote())
        self._hands[hand.name] = hand
        return hand

    def _await(self, hand: _Hand) -> Any:
        """Wait for the first worker, whose placement is that of all."""
        ready, _ = self._ray.wait([hand.described], timeout=START_S)
        if not ready:
            raise ClusterError(self._tell_absence())
        hand.site, placement = self._get_description(hand)
        self._welcome(hand)
        return placement

    def _get_description(self, hand: _Hand) -> Any:
        try:
            return self._ray.get(hand.described)
        except self._ray.exceptions.RayTaskError as error:
            raise ClusterError(f"a worker could not start: {connection.tell(error)}") from None

    def _staff(self, wanted: int) -> None:
        """Start actors where there is room, and a few more; take in those that are ready."""
        now = time.monotonic()
        if now - self._looked > LOOKS_EVERY_S or not self._hands:
            self._looked, self._slots = now, connection.count("GPU" if self._gpu else "CPU")
            if not self._slots and not self._hands:
                raise ClusterError(self._tell_absence())
        room = max(0, self._slots - self._refused) if now >= self._starts_after else 0
        for _ in range(min(wanted, room + min(MORE, room)) - len(self._hands)):
            self._start(self._gpu)
        pending = {hand.described: hand for hand in self._hands.values() if hand.described is not None}
        if not pending:
            return
        ready, _ = self._ray.wait(list(pending), num_returns=len(pending), timeout=0)
        for hand in map(pending.get, ready):
            assert hand is not None
            try:
                hand.site, _ = self._get_description(hand)
            except (self._ray.exceptions.RayError, ClusterError) as error:
                self._dismiss(hand)
                if not self._most:
                    raise ClusterError(f"a worker could not start: {connection.tell(error)}") from None
                self._failed_starts += 1  # on a node that is going, or has not what it needs
                self._starts_after = now + min(60.0, 2.0**self._failed_starts)
                continue
            self._welcome(hand)

    def _welcome(self, hand: _Hand) -> None:
        """Take an actor for ready, if it is as the driver is.

        Raises:
            ClusterError: the first one is not; later ones are sent away.
        """
        site = hand.site
        assert site is not None
        here = Site("", list_versions(), "" if self.placement_name is None else self.placement_name)
        trouble = here.tell_differences(site)
        if trouble:
            trouble = f"it has other versions: {trouble}. Results would differ: install the same (requirements.txt)"
        elif here.placement and here.placement != site.placement:
            trouble = f"its models run as {site.placement}, and those of the others as {here.placement}"
        if trouble:
            told = f"the worker on {site.node} is not fit for this work, as {trouble}"
            self._dismiss(hand)
            self._refused += 1
            if not self._most:
                raise ClusterError(told)
            log.warning("%s; it is left out", told)
            return
        hand.described, hand.ready_at, self._machine, self._failed_starts = None, time.monotonic(), site.machine, 0
        self._most = max(self._most, sum(one.described is None for one in self._hands.values()))

    @property
    def placement_name(self) -> str | None:
        """`Placement.name`, where it is known already."""
        placement = vars(self).get("placement")
        return None if placement is None else str(placement.name)

    def _dismiss(self, hand: _Hand) -> None:
        self._hands.pop(hand.name, None)
        self._ray.kill(hand.actor)

    # ---------------------------------------------------------------- parts

    def _deal(self, backlog: Backlog, ready: list[_Hand], payload: bytes, sights: tuple[Sight, ...]) -> None:
        names = [hand.name for hand in ready]
        dealt = True
        while dealt:  # one each, in turn, so that the last ones are spread
            dealt = False
            for hand in sorted(ready, key=lambda hand: hand.busy):
                if hand.alone or (entry := backlog.take(hand.name, hand.busy, len(self._sent), names)) is None:
                    continue
                hand.busy, hand.alone, dealt = hand.busy + 1, entry.suspect, True
                self._sent[hand.actor.work.remote(payload, sights, entry.task)] = _Sent(hand, entry)

    def _wait(self) -> list[Any]:
        refs = list(self._sent)
        if not refs:
            pending = [hand.described for hand in self._hands.values() if hand.described is not None]
            if pending:
                self._ray.wait(pending, timeout=LOOKS_EVERY_S)
            else:
                time.sleep(0.1)
            return []
        ready, rest = self._ray.wait(refs, timeout=LOOKS_EVERY_S)
        if ready and rest:
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return list(ready)

    def _receive(self, ref: Any, backlog: Backlog, bar: Progress | None) -> Iterator[Any]:
        sent = self._sent.pop(ref, None)
        if sent is None:  # of an actor that was lost in the meantime
            return
        hand, entry = sent.hand, sent.entry
        try:
            outcome: Outcome = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._lose(hand, entry, backlog, connection.tell(error))
            return
        alone, hand.busy, hand.alone = hand.busy == 1, hand.busy - 1, False
        if isinstance(outcome.error, ClusterError) and self._made:  # a node that has joined, and is not fit
            log.warning("%s; it is left out", outcome.error)
            self._refused += 1
            self._lose(hand, entry, backlog, "", blamed=False)
            return
        if outcome.error is not None and not isinstance(outcome.error, ResourceError):
            raise outcome.error
        if outcome.error is not None or outcome.trouble:
            reason = str(outcome.error) if outcome.error is not None else outcome.trouble
            try:
                self._suspect(entry, backlog, hand, reason, alone and outcome.alone)
            except ClusterError:
                if outcome.error is not None:  # as it is, with its own words
                    raise outcome.error from None
                raise
            return
        self._made = True
        hand.items += entry.task.size
        if bar is not None and entry.task.size:
            bar.add(entry.task.size, **self._tell_rates())
        yield outcome.result

    def _tell_rates(self) -> dict[str, str | int]:
        """How many workers there are, and the pace of the slowest and of the fastest since they were ready."""
        ready, now = [hand for hand in self._hands.values() if hand.described is None], time.monotonic()
        paces = [hand.items / max(now - hand.ready_at, 1e-3) for hand in ready]
        return {"workers": len(ready), "each": f"{min(paces):,.1f} to {max(paces):,.1f}/s"}

    def _suspect(self, entry: Entry, backlog: Backlog, hand: _Hand, reason: str, alone: bool) -> None:
        if alone:
            entry.fail(hand.name, f"{reason} (on {hand.site.node if hand.site else 'a node that is gone'})")
        backlog.give_back(entry)

    def _lose(self, hand: _Hand, entry: Entry, backlog: Backlog, reason: str, blamed: bool = True) -> None:
        """Give back all parts of an actor that has died, or is dismissed; another takes its place."""
        mine = [entry, *(sent.entry for sent in self._sent.values() if sent.hand is hand)]
        self._sent = {ref: sent for ref, sent in self._sent.items() if sent.hand is not hand}
        self._dismiss(hand)
        self.lost += blamed
        if blamed and self.lost <= TOLD:
            where = hand.site.node if hand.site else "a node"
            log.warning("a worker on %s was lost (%s); its parts go to others", where, reason[:300])
        for one in mine:
            self._suspect(one, backlog, hand, reason, alone=blamed and len(mine) == 1)

    def _tell_absence(self) -> str:
        what = "GPU" if self.placement_name and self._gpu else "CPU"
        return (
            f"no worker is there: the cluster has {connection.count(what)} {what}s free for one. See `ray status`; "
            "one node with them has to be there when the work begins"
        )

    def close(self) -> None:
        """See `Engine.close`; a cluster that was started for this is ended."""
        if self._ray is None:
            return
        for hand in [*self._hands.values()]:
            with suppress(self._ray.exceptions.RayError):
                self._dismiss(hand)
        self._sent.clear()
        if self._owns:
            self._ray.shutdown()
        self._ray = None
