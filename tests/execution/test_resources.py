"""What a cluster has room for: on the nodes that are there, on those that may be started."""

from __future__ import annotations

import yaml

from raycae.execution import resources
from raycae.execution.resources import Autoscaler, NodeType
from raycae.study.study import Study

FILE = """
max_workers: 3
head_node_type: head
provider: {type: aws}
available_node_types:
  head: {resources: {CPU: 8}, max_workers: 0}
  one: {resources: {CPU: 4, GPU: 1}, max_workers: 8}
  four: {resources: {CPU: 48, GPU: 4}, max_workers: 1}
"""


def test_places_on_a_node() -> None:
    """Oracle: by hand. A share of a GPU lies on one GPU; cores bound the rest."""
    node = {"CPU": 8.0, "GPU": 2.0}
    shares = {0: 8, 1: 2, 2: 1, 0.5: 4, 0.4: 4, 0.25: 8, 0.1: 8}
    assert {gpus: resources.count_trial_slots(node, 1, gpus) for gpus in shares} == shares
    assert resources.count_trial_slots(node, 3, 0.25) == 2


def test_places_that_an_autoscaler_may_start() -> None:
    """Oracle: by hand. Three machines at most: the one with four GPUs, of which there is one, and
    two with one; the head is none of them."""
    autoscaler = Autoscaler.from_cluster_file(yaml.safe_load(FILE))
    assert autoscaler.count_slots(cpus=1, gpus=1) == 4 + 1 + 1
    assert autoscaler.count_slots(cpus=1, gpus=0.25) == 16 + 4 + 4
    assert autoscaler.count_slots(cpus=8, gpus=1) == 4
    assert autoscaler.count_slots(cpus=1, gpus=2) == 2
    assert autoscaler.count_slots(cpus=1, gpus=8) == 0
    assert Autoscaler().count_slots(cpus=1, gpus=0) == 0


def test_a_list_of_machines_says_nothing_of_what_they_have() -> None:
    """Oracle: what `ray up` writes for the provider `local`: one type, of head and workers, without
    resources."""
    kinds = {"local.cluster.node": {"resources": {}, "max_workers": 2}}
    file = {"max_workers": 2, "head_node_type": "local.cluster.node", "provider": {"type": "local"}}
    autoscaler = Autoscaler.from_cluster_file({**file, "available_node_types": kinds})
    assert autoscaler.types == [NodeType({}, 2)]
    assert autoscaler.count_slots(cpus=1, gpus=0) == 0


def test_trials_at_a_time_follow_the_places(study: Study) -> None:
    """Oracle: by hand. No more trials are out than there are places, one more as soon as there is
    one more, and another when one has ended."""
    from raycae.execution.progress import Progress
    from raycae.execution.tune_adapter import SearchState, StudySearcher

    there = 1
    run = SearchState(study, lambda: False, Progress(6, 3))
    searcher = StudySearcher(run, {}, lambda: there)
    assert isinstance(searcher.suggest("a"), dict)
    assert searcher.suggest("b") is None
    there = 2
    assert isinstance(searcher.suggest("b"), dict)
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a")
    assert isinstance(searcher.suggest("c"), dict)
    there = 1
    searcher.on_trial_complete("b")
    assert searcher.suggest("d") is None
