"""Search-space files: every shipped one keeps the contract, and every mistake is named."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import optuna
import pytest
import yaml
from optuna.samplers import RandomSampler

from raycae.config import resolve
from raycae.errors import InputError
from raycae.model.architecture import build_architecture
from raycae.space import loading
from raycae.space.schema import make_json_schema
from raycae.space.space import Space

VALID = {
    "task": "reconstruct",
    "params": {"lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}},
}


def parse(**changes: object) -> Space:
    return loading.parse_space(yaml.safe_dump({**VALID, **changes}), name="mine")


def draws(the_space: Space, n: int, seed: int = 0) -> list[optuna.Trial]:
    study = optuna.create_study(sampler=RandomSampler(seed))
    return [study.ask() for _ in range(n)]


@pytest.mark.parametrize("name", loading.list_space_names())
def test_shipped_space(name: str) -> None:
    """Oracle: the contract. It asks a question, names its command and cost, its base is tried
    first; whatever is drawn builds and comes back from the configuration as its parameters."""
    the_space = loading.load_space(name)
    assert the_space.question.endswith("?")
    assert f"raycae search --space {name}" in the_space.text
    assert "# Measured cost: " in the_space.text
    assert next(iter(the_space.points)).endswith("base")
    for trial in draws(the_space, 40):
        config = the_space.draw(trial)
        assert the_space.params_of(config) == trial.params
        net = build_architecture(config)
        assert net.out_shape == (config.out_channels, config.image_size, config.image_size)


@pytest.mark.parametrize("name", loading.list_space_names())
def test_shipped_space_follows_the_schema(name: str) -> None:
    """Oracle: jsonschema, with the schema that editors are given."""
    schema = json.loads((loading.get_spaces_folder() / "schema.json").read_text())
    jsonschema.validate(yaml.safe_load(loading.load_space(name).text), schema)


def test_shipped_schema_is_current() -> None:
    """Oracle: the text that the model gives now."""
    assert (loading.get_spaces_folder() / "schema.json").read_text() == make_json_schema()


def test_searched_in_ex2_and_ex3() -> None:
    """Oracle: the list in the issue that asked for these spaces."""
    asked = "depth channels kernel downsample upsample activation latent_channels optimizer lr "
    asked += "weight_decay batch_size momentum"
    for name in ("ex2", "ex3"):
        file = loading.load_space(name).file
        assert set(asked.split()) <= set(file.params)
        batches = file.params["batch_size"].choices  # type: ignore[union-attr]
        assert (min(batches), max(batches)) == (1, 512)
    assert "gammas" in loading.load_space("ex3").file.params


def test_conditions_hold() -> None:
    """Oracle: momentum is drawn exactly with SGD; stages beyond the depth have no parameters."""
    the_space = loading.load_space("ex2")
    seen = set()
    for trial in draws(the_space, 100):
        config = the_space.draw(trial)
        assert ("momentum" in trial.params) == (config.optimizer == "sgd")
        assert ("residual" in trial.params) == (trial.params["convs"] == 2)
        stages = [name for name in trial.params if name.startswith("channels_")]
        assert len(stages) == config.depth
        seen.add(config.depth)
    assert seen == {1, 2, 3, 4}


def test_condition_of_the_same_stage() -> None:
    """Oracle: by construction, a stage has a factor of its own only where it downsamples."""
    choices = {"type": "categorical", "per": "stage"}
    the_space = parse(
        fixed={"depth": 3, "channels": 4},
        params={
            "factor": {**choices, "choices": [2, 4], "when": {"downsample": ["max", "stride"]}},
            "downsample": {**choices, "choices": ["max", "stride", "none"]},
        },
    )
    for trial in draws(the_space, 30):
        the_space.draw(trial)
        for stage in (1, 2, 3):
            downsamples = trial.params[f"downsample_{stage}"] != "none"
            assert (f"factor_{stage}" in trial.params) == downsamples


def test_point_partly_outside_the_space() -> None:
    """Oracle: by hand. The base's weight decay of 0 is not on ex2's log scale, the rest is."""
    the_space = loading.load_space("ex2")
    params = the_space.params_of(the_space.points["base"])
    assert "weight_decay" not in params
    assert (params["channels_1"], params["channels_2"], params["lr"]) == (8, 12, 0.001)


def test_defaults_of_a_point_are_the_base_model() -> None:
    """Oracle: a point that changes nothing is what `resolve` makes of nothing."""
    assert loading.load_space("ex1").points["base"] == resolve({})


def test_list_as_a_choice() -> None:
    """Oracle: a table shows its JSON text, the configuration holds the numbers."""
    the_space = loading.load_space("ex3")
    for trial in draws(the_space, 20):
        config = the_space.draw(trial)
        assert tuple(json.loads(trial.params["gammas"])) == config.gammas


def test_steps() -> None:
    """Oracle: arithmetic. Only 4, 8, 12 and 16 can be drawn; 6 is not contained."""
    the_space = parse(params={"latent_channels": {"type": "int", "low": 4, "high": 16, "step": 4}})
    drawn = {the_space.draw(trial).latent_channels for trial in draws(the_space, 60)}
    assert drawn == {4, 8, 12, 16}
    assert the_space.params_of(resolve({"latent_channels": 6})) == {}


def test_stages_of_a_fixed_list() -> None:
    """Oracle: three fixed channels are three stages, so three kernels are drawn."""
    the_space = parse(
        fixed={"channels": [8, 12, 16]},
        params={"kernel": {"type": "categorical", "choices": [3, 5], "per": "stage"}},
        points={"base": {}},
    )
    (trial,) = draws(the_space, 1)
    config = the_space.draw(trial)
    assert set(trial.params) == set(the_space.parameters) == {"kernel_1", "kernel_2", "kernel_3"}
    assert the_space.params_of(config) == trial.params


def test_constraints_name_what_is_broken() -> None:
    """Oracle: the base model's known counts, 1024 and 4,911."""
    base = resolve({})
    assert parse(constraints={"latent_size": {"max": 1024}}).check(base) is None
    tight = parse(constraints={"latent_size": {"max": 1000}})
    assert tight.check(base) == "latent_size 1,024 is above 1,000"
    assert parse(constraints={"n_params": {"min": 5000}}).check(base) is not None


def test_hash_is_of_the_meaning() -> None:
    """Oracle: comments and order do not count, values do."""
    text = loading.load_space("ex2").text
    spelled = yaml.safe_dump(yaml.safe_load(text), sort_keys=True)
    same = loading.parse_space("# other comment\n" + spelled, name="ex2")
    assert same.hash == loading.load_space("ex2").hash
    assert loading.parse_space(text.replace("2048", "1024"), name="ex2").hash != same.hash


LR = {"type": "float", "low": 1e-4, "high": 1e-2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taks": "reconstruct"}, "mine.yaml: taks: unknown key. Did you mean task? Use "),
        ({"task": "paint"}, "mine.yaml: task: 'paint' is not allowed; allowed: 'reconstruct' or"),
        (
            {"params": {"lr": {**LR, "low": 0.1}}},
            "mine.yaml: params.lr: low 0.1 is above high 0.01",
        ),
        ({"params": {"lr": {**LR, "low": 0.0, "log": True}}}, "a log scale starts above 0"),
        (
            {"params": {"lr": {**LR, "low": "tiny"}}},
            "params.lr.low: expected a number such as 0.5 or 1e-4, not the text 'tiny'",
        ),
        ({"params": {"lr": {**LR, "hihg": 1}}}, "params.lr.hihg: unknown key. Did you mean"),
        (
            {"params": {"lr": {"type": "real"}}},
            "params.lr.type: real is not allowed; allowed",
        ),
        ({"params": {"lr": {"low": 1}}}, "params.lr.type: nothing is not allowed; allowed"),
        ({"params": {"lr": {**LR, "low": -1.0}}}, "params.lr.low: -1.0 is not allowed"),
        ({"params": {"kernle": LR}}, "params.kernle: unknown parameter. Did you mean kernel?"),
        (
            {"params": {"kernel": {"type": "int", "low": 3, "high": 9}}},
            "params.kernel.high: 9 is not allowed; input should be less than or equal to 7",
        ),
        (
            {"params": {"upsample": {"type": "categorical", "choices": ["cubic"]}}},
            "params.upsample.choices: 'cubic' is not allowed; allowed: 'nearest'",
        ),
        ({"params": {"upsample": {"type": "categorical", "choices": []}}}, "choices: [] is not"),
        ({"params": {"lr": {**LR, "per": "stage"}}}, "params.lr.per: 'stage' is not allowed here"),
        ({"params": {"lr": {**LR, "when": {"opt": "adam"}}}}, "params.lr.when: 'opt' is not a"),
        (
            {"params": {"lr": {**LR, "when": {"optimizer": "adma"}}}},
            "params.lr.when.optimizer: 'adma' is not allowed; allowed: 'adam'",
        ),
        (
            {
                "params": {
                    "lr": {**LR, "when": {"momentum": 0.5}},
                    "momentum": {"type": "float", "low": 0, "high": 0.9, "when": {"lr": 0.1}},
                }
            },
            "also depends on",
        ),
        ({"fixed": {"lr": 0.1}}, "params.lr: is also listed under fixed"),
        ({"fixed": {"kernel": 8}}, "fixed.kernel.0: 8 is not allowed"),
        ({"fixed": {"depth": 2, "channels": [1, 2, 3]}}, "fixed: channels: [1, 2, 3] has 3 "),
        ({"points": {"a": {"lrr": 1}}}, "points.a.lrr: unknown key. Did you mean lr?"),
        (
            {"points": {"a": {"depth": 4, "factor": 4}}},
            "points.a: stage 3: max-pool 4 needs at least 4 x 4 pixels",
        ),
        (
            {"points": {"a": {}}, "constraints": {"latent_size": {"max": 10}}},
            "points.a: latent_size 1,024 is above 10",
        ),
        ({"series": {"a": {"lrr": 1}}}, "series.a.lrr: unknown key. Did you mean lr?"),
        ({"series": {"a": {}}}, "series.a: changes nothing; name a setting"),
        ({"series": {"a": {"task": "colourise"}}}, "series.a.task: cannot differ between"),
        (
            {"series": {"a": {"kernel": [3, 5, 7]}}, "fixed": {"depth": 2}},
            "series.a: kernel: [3, 5",
        ),
        (
            {"points": {"p": {"depth": 4}}, "series": {"a": {"factor": 4}}},
            "series.a: stage 3: max-pool 4 needs at least 4 x 4 pixels",
        ),
        (
            {
                "series": {"a": {"latent_channels": 32}},
                "constraints": {"latent_size": {"max": 1024}},
            },
            "series.a: latent_size 2,048 is above 1,024",
        ),
        ({"constraints": {"latent": {"max": 10}}}, "constraints.latent: unknown key. Did you mean"),
        ({"constraints": {"flops": {"above": 10}}}, "constraints.flops.above: unknown key"),
        ({"budget": {"trials": 0}}, "budget.trials: 0 is not allowed"),
        ({"budget": {"hours": float("inf")}}, "budget.hours: inf is not allowed"),
        ({"constraints": {"flops": {"max": float("nan")}}}, "flops.max: nan is not allowed"),
        ({"fixed": {"task": "colourise"}}, "fixed.task: set the task at the top"),
        ({"points": {"a": {"image_size": 64}}}, "points.a.image_size: cannot differ between"),
        (
            {"params": {"depth": {"type": "categorical", "choices": ["2"]}}},
            "params.depth.choices: expected a whole number such as 16, not the text '2'",
        ),
        (
            {"params": {"channels": {"type": "float", "low": 4.0, "high": 64.0}}},
            "params.channels.low: expected a whole number, not 4.0",
        ),
        (
            {"params": {"factor": {"type": "int", "low": 2, "high": 4}}},
            "'factor': 3} is not possible",
        ),
        (
            {
                "params": {"depth": {"type": "int", "low": 1, "high": 4}},
                "fixed": {"channels": [8, 12]},
            },
            "is not possible: channels: [8, 12] has 2 entries",
        ),
        ({"params": {"lr": {**LR, "log": True, "step": 1.0}}}, "log and step together"),
        ({"params": {"lr": {**LR, "step": float("inf")}}}, "params.lr.step: inf is not allowed"),
        ({"params": {"lr": {**LR, "when": {"depth": "2"}}}}, "when.depth: '2': write 2"),
        ({"params": {"lr": {**LR, "when": {"optimizer": []}}}}, "[] is never true"),
        (
            {"params": {"norm": {"type": "categorical", "choices": ["batch", "batch"]}}},
            "a choice is listed twice",
        ),
        ({"budget": {"epcohs": 3}}, "budget.epcohs: unknown key. Did you mean epochs?"),
    ],
)
def test_mistake_in_a_file(changes: dict[str, object], message: str) -> None:
    """Oracle: one message with the file, the key, the value and what is allowed."""
    with pytest.raises(InputError) as caught:
        parse(**changes)
    assert message in str(caught.value)
    assert str(caught.value).startswith("mine.yaml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: [reconstruct", "not valid YAML"),
        ("- 1", "must be a mapping with the keys task, data, budget, objective, params"),
        ("? [a]\n: b", "a key must be text"),
        ("!!python/object/apply:os.system ['exit 1']", "not valid YAML"),
        ("", "must be a mapping"),
        ("task: reconstruct\ntask: colourise", "the key 'task' appears twice"),
        ("3: 4", "3: this key is not text"),
        ("data: cifar10", "task: missing"),
        ("data: !!int 2020-13-45", "not valid YAML"),
        ("[" * 3000, "not valid YAML"),
    ],
)
def test_no_space_at_all(text: str, message: str) -> None:
    """Oracle: the message names the file and what is wrong with it."""
    with pytest.raises(InputError, match=r"mine\.yaml: ") as caught:
        loading.parse_space(text, name="mine")
    assert message in str(caught.value)


def test_unknown_space_lists_the_known(tmp_path: Path) -> None:
    """Oracle: the names in the folder, and a close one first."""
    with pytest.raises(InputError) as caught:
        loading.load_space("ex22")
    assert "Did you mean ex2?" in str(caught.value)
    assert f"Use {', '.join(loading.list_space_names())}, or the path" in str(caught.value)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        loading.load_space(str(tmp_path / "none.yaml"))


def test_space_from_a_file(tmp_path: Path) -> None:
    """Oracle: the file's name without its ending is the space's name."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(VALID))
    assert loading.load_space(str(path)).name == "mine"


def test_limits_from_the_command_line() -> None:
    """Oracle: the space means the same but for the limit; its question stays; of several points
    those within stay, and none if none is; an unknown count and no number are named."""
    ex2 = loading.load_space("ex2")
    small = loading.limit_space(ex2, ["n_params=5_000", "latent_size=1.1e3"])
    assert small.question == ex2.question
    assert small.file.constraints.n_params.max == 5000
    assert small.file.constraints.latent_size.max == 1100
    assert small.file.constraints.flops == ex2.file.constraints.flops
    assert small.file.params == ex2.file.params
    assert small.hash != ex2.hash
    assert loading.limit_space(ex2, ["latent_size=2048"]).hash == ex2.hash
    frontier = loading.load_space("frontier")
    least = loading.limit_space(frontier, ["n_params=5000"]).points
    assert list(least) == ["blocks-1024"]
    assert least["blocks-1024"] == frontier.points["blocks-1024"]
    assert loading.limit_space(ex2, ["n_params=100"]).points == {}
    for limit, message in (
        (
            "lr=1",
            "--max lr=1: 'lr' cannot be limited. Use latent_size, n_params, flops or epoch_time_s",
        ),
        ("flops=many", "--max flops=many: write flops=NUMBER"),
        ("n_params=", "--max n_params=: write"),
    ):
        with pytest.raises(InputError) as caught:
            loading.limit_space(ex2, [limit])
        assert message in str(caught.value)
