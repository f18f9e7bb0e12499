"""Earlier studies as what a new search begins with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import yaml
from conftest import TINY_SPACE, Run, data_facts, die, run_trial

from raycae.errors import InputError
from raycae.space import loading
from raycae.space.space import Space
from raycae.study import warm_start
from raycae.study.attempt import FailureReport
from raycae.study.opening import create_study, resume_study
from raycae.study.plan import Plan


@pytest.fixture
def before(tmp_path: Path, tiny_space: Space, plan: Plan) -> Path:
    """A study of six trials, the last one FAIL; its folder."""
    study = create_study(
        tmp_path / "before", replace(plan, study="before"), tiny_space, data_facts()
    )
    for number in range(5):
        run_trial(study, *(0.5 - number / 20,) * 3)
    issue = study.ask()
    assert issue
    study.start_attempt(issue.number, issue.attempt)
    study.fail_attempt(FailureReport(issue.number, issue.attempt, "diverged: training loss is nan"))
    study.close()
    return tmp_path


def tiny(**changes: object) -> Space:
    return loading.parse_space(
        yaml.safe_dump({**yaml.safe_load(TINY_SPACE), **changes}), name="other"
    )


def test_what_fits_is_known(before: Path, tiny_space: Space) -> None:
    """Oracle: five of the six ran to their end; of these the base has 12 channels, where the space
    ends at 8."""
    known, notes = warm_start.load_known(["before"], str(before), tiny_space)
    assert [error for _, error in known] == pytest.approx([0.45, 0.4, 0.35, 0.3])
    assert notes == [
        "from before (photos, 3 epochs): 4 trials used; left out: 1 outside this space, "
        "1 incomplete"
    ]


def test_what_does_not_fit_is_counted(before: Path) -> None:
    """Oracle: a space whose channels end below what the base, and whoever else, has: only trials
    inside it; the rest is counted."""
    text = yaml.safe_load(TINY_SPACE)["params"]
    narrow = tiny(params={**text, "channels": {**text["channels"], "high": 7}}, points={})
    known, notes = warm_start.load_known(["before"], str(before), narrow)
    assert known
    assert all(max(config.channels) <= 7 for config, _ in known)
    assert f"{5 - len(known)} outside this space" in notes[0]


def test_the_sampler_sees_them_first(before: Path, tiny_space: Space, plan: Plan) -> None:
    """Oracle: the window before the first trial holds their errors, best among the best, and does
    so again when the study is resumed from its ledger alone."""
    known, _ = warm_start.load_known(["before"], str(before), tiny_space)
    tpe = replace(plan, study="after", sampler="tpe")
    study = create_study(before / "after", tpe, tiny_space, data_facts(), known=known)
    assert sorted(t.value for t in study.proposer.history.select_recent().values()) == sorted(
        e for _, e in known
    )
    run_trial(study, 0.6, 0.6, 0.6)
    study.close()
    for name in ("trials.parquet", "epochs.parquet", "study.json"):
        (before / "after" / name).unlink()
    resumed = resume_study(before / "after", tpe)
    assert sorted(t.value for t in resumed.proposer.history.select_recent().values()) == sorted(
        [*(e for _, e in known), 0.6]
    )
    assert resumed.records.n_ended() == 1
    die(resumed)


def test_a_foreign_study_is_refused(before: Path, run: Run) -> None:
    """Oracle: another task, another image size, nothing inside: one message before anything is
    begun."""
    for changes, message in (
        ({"task": "colourise"}, "reconstruct at 32 pixels cannot be used for colourise at 32"),
        ({"fixed": {"batch_size": 32, "image_size": 16}}, "cannot be used for reconstruct at 16"),
        ({"fixed": {"batch_size": 64}}, "nothing to learn from; from before (photos, 3 epochs): 0"),
    ):
        with pytest.raises(InputError, match="--from before: ") as caught:
            warm_start.load_known(["before"], str(before), tiny(**changes))
        assert message in str(caught.value)
    arguments = ["--space", "quickstart", "--results", before, "--from", "nobody"]
    code, _, err = run("search", *arguments)
    assert code == 2
    assert "nobody: no study has this name or path" in err
    assert not (before / "quickstart").exists()


def test_an_inactive_parameter_is_no_obstacle() -> None:
    """Oracle: `momentum` is searched for every optimizer in a range without Adam's 0, and Adam
    ignores it: each configuration that the space draws can be drawn again."""
    text = TINY_SPACE.replace("low: 0.0, high: 0.9, when: {optimizer: sgd}", "low: 0.5, high: 0.9")
    space = loading.parse_space(text, name="every")
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    configs = [space.draw(drawn.ask()) for _ in range(20)]
    assert {config.optimizer for config in configs} == {"adam", "sgd"}
    assert all(warm_start.is_in_space(space, config) for config in configs)
