"""Changes to private parts of Ray: they hold only where they are meant to."""

from __future__ import annotations

from types import SimpleNamespace

from raycae.execution.ray_patches import UNNEEDED, start_fewer_processes


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
