"""The actor that is a fleet: it keeps as many replicas as are wanted, and knows where they are.

Its answers are plain data, so that a trainer without the server's packages can read them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from preprocessor_server.fleet.nodes import kept_free, lack_of_room, selector
from preprocessor_server.fleet.replica import Replica
from preprocessor_server.fleet.spec import NAMESPACE, FleetSpec, wrong_release

# Between two looks at every replica.
LOOK_S = 1.0
# Before a replica that cannot start is made anew: a volume may be mounted by then.
AGAIN_S = 5.0
# A drain ends by --drain-timeout-s, and a little for the rest.
DRAIN_MARGIN_S = 15.0
GONE_S = 10.0
# So that its state can be asked for while it drains.
REPLICA_CALLS = 4


@dataclass(eq=False)
class Member:
    """One replica, as the controller last saw it."""

    handle: Any
    kept: frozenset[str]
    state: dict[str, Any] | None = None
    asked: asyncio.Future[Any] | None = None
    leaving: bool = False

    @property
    def serves(self) -> bool:
        """Whether new streams may go there."""
        return not self.leaving and self.state is not None and self.state["address"] != ""


class Controller:
    """A fleet on Ray. Replicas are its children: Ray ends them with it."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, spec: dict[str, Any]
    ) -> None:
        self._spec = FleetSpec(**spec)
        self._wrong = wrong_release(self._spec, "the head node")
        self._members: list[Member] = []
        self._nodes: list[Any] = []
        self._problem = ""
        self._again_s = 0.0
        self._wanted = _remembered(self._spec.replicas)
        self._changed = asyncio.Condition()
        self._scaling = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._loop = None if self._wrong else asyncio.create_task(self._follow())

    async def addresses(self) -> list[str]:
        """Where the replicas that serve are, sorted."""
        return sorted(m.state["address"] for m in self._members if m.serves and m.state)

    async def ready(self, replicas: int, timeout_s: float) -> dict[str, Any]:
        """Waits until so many replicas serve; a status, whose problem is "" if they do.

        A problem that waiting does not solve (a setting, a version) ends the wait.
        """
        await self._wait(
            lambda: self._serving() >= replicas or bool(self._problem or self._wrong), timeout_s
        )
        return await self.status(wanted=replicas)

    async def status(self, wanted: int = 0) -> dict[str, Any]:
        """All that is known; problem says why fewer than wanted serve (0: than the fleet wants)."""
        wanted = wanted or self._wanted
        problem = ""
        if self._serving() < wanted:
            problem = self._wrong or self._problem or await self._lack(wanted)
        return {
            "name": self._spec.name,
            "wanted": self._wanted,
            "serving": self._serving(),
            "cpus": self._spec.cpus,
            "detached": self._spec.detached,
            "release": self._spec.release,
            "pid": os.getpid(),
            "problem": problem,
            "replicas": [_described(member) for member in self._members],
        }

    async def scale(self, replicas: int, timeout_s: float) -> dict[str, Any]:
        """Adds replicas and waits for them, or drains some and ends them; the status then."""
        async with self._scaling:
            self._wanted, self._problem = replicas, ""
            _remember(replicas)
            await self._retire(self._surplus())
        # Outside of the lock: who waits in vain for room must be able to scale in again.
        return await self.ready(replicas, timeout_s)

    async def drain(self) -> dict[str, Any]:
        """Drains all replicas at the same time and ends them; nothing is made anew."""
        async with self._scaling:
            if self._loop is not None:
                self._loop.cancel()
            self._wanted = 0
            _remember(None)
            await self._retire(list(self._members))
        return await self.status()

    async def _follow(self) -> None:
        while True:
            # The next look finds what this one did not, and says so if it lasts.
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - the fleet must outlive any error of Ray's
                self._problem = f"the controller cannot follow its replicas: {error}"
                print(self._problem, file=sys.stderr, flush=True)  # noqa: T201 - the actor's log
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        """Asks every replica where it is, and makes those that are missing."""
        import ray

        self._nodes = await asyncio.to_thread(ray.nodes)
        await asyncio.gather(*(self._ask(member) for member in list(self._members)))
        kept = kept_free(self._nodes, allow_gpu_nodes=self._spec.allow_gpu_nodes)
        strayed = [m for m in self._members if m.state and m.state["node"] in kept]
        if strayed:
            # On a node that joined with GPUs after the replica was placed, and was restarted there.
            task = asyncio.create_task(self._retire(strayed))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        missing = self._wanted - sum(not m.leaving for m in self._members)
        if time.monotonic() >= self._again_s and not self._scaling.locked():
            for _ in range(missing):
                self._members.append(self._make(kept))
        async with self._changed:
            self._changed.notify_all()

    async def _ask(self, member: Member) -> None:
        """Notes what a replica says within a moment; one that starts is waited for further."""
        from ray.exceptions import ActorUnavailableError, RayActorError, RayError

        if member.asked is None:
            member.asked = asyncio.ensure_future(_answer(member.handle.state.remote()))
        done, _ = await asyncio.wait([member.asked], timeout=LOOK_S)
        if not done:
            return
        asked, member.asked = member.asked, None
        try:
            member.state = asked.result()
        except ActorUnavailableError:
            # Ray makes it anew; its next address is another one.
            member.state = None
        except RayActorError as error:
            # It cannot even be made: Ray does not try again.
            self._failed(
                member,
                f"a replica cannot be made ({_last_line(error)}): headrace[server,ray]=="
                f"{self._spec.release} must be installed on every node that may have one",
            )
        except RayError as error:
            member.state = None
            self._problem = _last_line(error)
        else:
            if member.state["problem"]:
                self._failed(member, member.state["problem"])
            elif self._serving() >= self._wanted:
                self._problem = ""

    def _failed(self, member: Member, problem: str) -> None:
        import ray

        self._problem = problem
        self._again_s = time.monotonic() + AGAIN_S
        with contextlib.suppress(ValueError):
            self._members.remove(member)
        ray.kill(member.handle, no_restart=True)

    def _make(self, kept: frozenset[str]) -> Member:
        import ray

        actor = ray.remote(Replica).options(
            num_cpus=self._spec.cpus,
            max_restarts=-1,
            max_concurrency=REPLICA_CALLS,
            scheduling_strategy="SPREAD",
            label_selector=selector(kept),
            namespace=NAMESPACE,
        )
        return Member(actor.remote(self._spec.to_dict()), kept)

    def _surplus(self) -> list[Member]:
        """The replicas too many: those that do not serve yet, then those of the fullest nodes."""
        staying = [member for member in self._members if not member.leaving]
        leaving: list[Member] = []
        while len(staying) > self._wanted:
            crowd = Counter(m.state["node"] for m in staying if m.state)
            worst = max(staying, key=lambda m: crowd[m.state["node"]] if m.state else sys.maxsize)
            staying.remove(worst)
            leaving.append(worst)
        return leaving

    async def _retire(self, members: list[Member]) -> None:
        members = [member for member in members if not member.leaving]
        for member in members:
            member.leaving = True
        await asyncio.gather(*(self._end(member) for member in members))
        async with self._changed:
            self._changed.notify_all()

    async def _end(self, member: Member) -> None:
        """Drains a replica, ends it, and waits until Ray says that it is gone; all bounded."""
        import ray
        from ray.exceptions import RayError

        if member.state is not None:
            drain_s = self._spec.settings_on("localhost").drain_timeout_s + DRAIN_MARGIN_S
            with contextlib.suppress(TimeoutError, RayError):
                await asyncio.wait_for(_answer(member.handle.drain.remote()), drain_s)
        ray.kill(member.handle, no_restart=True)
        with contextlib.suppress(TimeoutError, RayError):
            await asyncio.wait_for(_answer(member.handle.state.remote()), GONE_S)
        with contextlib.suppress(ValueError):
            self._members.remove(member)

    async def _wait(self, condition: Callable[[], bool], timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(condition)

    def _serving(self) -> int:
        return sum(member.serves for member in self._members)

    async def _lack(self, wanted: int) -> str:
        """Why replicas do not serve, where they did not say it."""
        import ray

        said = f"{self._serving()} of {wanted} replicas serve"
        if placed := sum(m.state is not None and not m.serves for m in self._members):
            return f"{said}, {placed} have their place and start (kernels may be compiled): wait"
        free = await asyncio.to_thread(ray.available_resources)
        room = lack_of_room(
            self._nodes,
            free.get("CPU", 0.0),
            self._spec.cpus,
            allow_gpu_nodes=self._spec.allow_gpu_nodes,
        )
        return f"{said}: {room}"


async def _answer(ref: Any) -> Any:
    return await ref


def _described(member: Member) -> dict[str, Any]:
    state = member.state or {"address": "", "node": "", "pid": 0, "problem": ""}
    word = "draining" if member.leaving else "serving" if member.serves else "starting"
    return {"state": word, **{name: state[name] for name in ("address", "node", "pid")}}


def _last_line(error: BaseException) -> str:
    """What an error of Ray's says in its end, where the cause of a failed start stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _key() -> str:
    import ray

    return f"replicas-{ray.get_runtime_context().get_actor_id()}"


def _remembered(otherwise: int) -> int:
    """The number of replicas that was wanted before Ray made this actor anew."""
    from ray.experimental import internal_kv

    value = internal_kv._internal_kv_get(_key(), namespace=NAMESPACE)
    return int(value) if value else otherwise


def _remember(replicas: int | None) -> None:
    from ray.experimental import internal_kv

    if replicas is None:
        internal_kv._internal_kv_del(_key(), namespace=NAMESPACE)
    else:
        internal_kv._internal_kv_put(_key(), str(replicas), namespace=NAMESPACE)
