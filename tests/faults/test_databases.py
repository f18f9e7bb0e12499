"""The database of the tests keeps an Optuna study, and can be gone for a while."""

from __future__ import annotations

from collections.abc import Iterator

import databases
import optuna
import pytest
import sqlalchemy
from databases import PostgreSQL
from optuna.storages import RDBStorage

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(databases.available() is not None, reason=str(databases.available())),
]


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    with PostgreSQL() as made:
        yield made


def test_an_optuna_study(database: PostgreSQL) -> None:
    """Oracle: what one connection wrote, another reads: parameters, values and states. And it is a
    PostgreSQL that answers."""
    study = optuna.create_study(storage=RDBStorage(database.url), study_name="one")
    study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=3)
    read = optuna.load_study(storage=RDBStorage(database.url), study_name="one")
    assert [trial.params for trial in read.trials] == [trial.params for trial in study.trials]
    assert len(read.trials) == 3
    assert all(trial.value == trial.params["x"] ** 2 for trial in read.trials)
    with sqlalchemy.create_engine(database.url).connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT version()")).startswith("PostgreSQL ")


def test_gone_for_a_while(database: PostgreSQL) -> None:
    """Oracle: while it is stopped nothing connects; started again it has what it had."""
    optuna.create_study(storage=RDBStorage(database.url), study_name="two")
    database.stop()
    with pytest.raises(sqlalchemy.exc.OperationalError):
        sqlalchemy.create_engine(database.url).connect()
    database.start()
    assert "two" in optuna.get_all_study_names(RDBStorage(database.url))


def test_nothing_is_left() -> None:
    """Oracle: two at a time do not meet, and their folders go with them."""
    with PostgreSQL() as one, PostgreSQL() as two:
        assert one.port != two.port
        folders = [made._folder for made in (one, two)]
        optuna.create_study(storage=RDBStorage(one.url), study_name="of one")
        assert optuna.get_all_study_names(RDBStorage(two.url)) == []
    assert not any(folder.exists() for folder in folders)
