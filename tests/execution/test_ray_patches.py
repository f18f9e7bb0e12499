"""Changes to private parts of Ray: they hold only where they are meant to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.tune.execution import class_cache

from raycae.execution.ray_patches import UNNEEDED, send_no_environment, start_fewer_processes


def test_fewer_processes_are_started_inside_the_block_only() -> None:
    """Oracle: Ray's own methods. Each exists in the installed Ray. Inside the block it does nothing
    but leave a URL that is text; afterwards it is back."""
    from ray._private.node import Node

    before = [getattr(Node, name) for name in UNNEEDED]
    with start_fewer_processes():
        for name, starter in zip(UNNEEDED, before, strict=True):
            node = SimpleNamespace(_webui_url=None)
            assert getattr(Node, name) is not starter
            assert getattr(Node, name)(node, include_dashboard=False) is None
            assert node._webui_url == ""
    assert [getattr(Node, name) for name in UNNEEDED] == before


def test_trials_bring_no_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: what Ray would start an actor with. It has neither the keys of an object store nor
    Tune's own variable. A class is sent to Ray once."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    cache = class_cache._ActorClassCache()
    monkeypatch.setattr(class_cache._ActorClassCache, "get", class_cache._ActorClassCache.get)
    send_no_environment()
    actor = cache.get(Trainable)
    assert actor is cache.get(Trainable)
    assert not actor._default_options.get("runtime_env")


class Trainable:
    """An empty trainable."""
