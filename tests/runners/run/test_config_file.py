import pytest

from runners.duel import main
from runners.run.cli import parse
from runners.run.record import Record

RUN = """
names: {task: symbols, agent: ipo}
task:
  length: 2
agent:
  tau: 0.5
  optimiser: {learning_rate: 1e-4}
run:
  steps: 7
  batch_size: null
"""


@pytest.fixture
def run_yaml(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(RUN, encoding="utf-8")
    return str(path)


def test_a_file_sets_names_and_fields_and_defaults_stay(run_yaml):
    settings = parse(["--config", run_yaml]).settings
    flags = (
        "--task symbols --agent ipo --task.length 2 --agent.tau 0.5 --agent.optimiser.learning_rate 1e-4 --run.steps 7"
    )
    assert settings == parse([*flags.split(), "--run.batch_size", "None"]).settings
    assert settings.configs["agent"].optimiser.learning_rate == 1e-4


def test_flags_override_the_file(run_yaml):
    settings = parse(["--config", run_yaml, "--agent.tau", "2", "--run.steps", "9", "--oracle", "bt"]).settings
    assert (settings.configs["agent"].tau, settings.run.steps, settings.names["oracle"]) == (2.0, 9, "bt")
    assert settings.configs["task"].length == 2


def test_the_fields_of_a_part_that_a_flag_replaces_are_left_out(run_yaml):
    settings = parse(["--config", run_yaml, "--agent", "sppo"]).settings
    assert settings.configs["agent"] == parse(["--agent", "sppo"]).settings.configs["agent"]
    assert settings.run.steps == 7


@pytest.mark.parametrize("place", ["", "config.json"])
def test_a_run_directory_gives_its_settings_but_not_its_place(tmp_path, place):
    flags = "--task symbols --agent ipo --agent.tau 0.5 --oracle cyclic+noise --run.threads 2 --run.dir elsewhere"
    before = parse(flags.split()).settings
    Record(tmp_path / "run", before, flags.split(), "cpu", 1).close()
    again = parse(["--config", str(tmp_path / "run" / place)]).settings
    assert (again.names, again.configs) == (before.names, before.configs)
    assert (again.run.threads, again.run.dir) == (2, None)


def test_a_required_field_may_come_from_the_file_or_from_a_flag(tmp_path, capsys):
    path = tmp_path / "lm.yaml"
    path.write_text("names: {policy: hf}\npolicy: {lora: {rank: 4}}\n")
    policy = parse(["--config", str(path), "--policy.path", "some/model"]).settings.configs["policy"]
    assert (policy.path, policy.lora.rank, policy.lora.alpha) == ("some/model", 4, 16.0)
    with pytest.raises(SystemExit):
        parse(["--config", str(path)])
    assert "--policy.path" in capsys.readouterr().err
    path.write_text("names: {policy: hf}\npolicy: {path: other/model}\n")
    assert parse(["--config", str(path)]).settings.configs["policy"].path == "other/model"


@pytest.mark.parametrize(("name", "field"), [("judge", "of: my_lab:judge"), ("pair_lm", "model: some/model")])
def test_required_fields_of_oracles_may_come_from_a_file(tmp_path, name, field):
    path = tmp_path / "oracle.yaml"
    path.write_text(f"names: {{oracle: {name}}}\noracle:\n  {field}\n")
    key, value = field.split(": ")
    assert getattr(parse(["--config", str(path)]).settings.configs["oracle"], key) == value


def test_help_shows_the_values_of_the_file(run_yaml, capsys):
    with pytest.raises(SystemExit):
        parse(["--config", run_yaml, "--help"])
    assert "--agent.tau 0.5 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("agent: {eta: 1\n", r":2: broken YAML: expected ',' or '}', but got '<stream end>'"),
        ("run: {steps: 1, steps: 2}", ":1: broken YAML: steps stands twice"),
        ("- a\n- b\n", ": expected names, fields of task, policy, oracle and agent, and run, got ['a', 'b']"),
        ("agnt: {}", ": agnt: no such section; did you mean 'agent'? Known: names, task,"),
        ("agent: sppo", ": agent: expected a mapping, got 'sppo'"),
        ("names: {agnt: sppo}", ": names.agnt: no such part; did you mean 'agent'? Known: task,"),
        ("names: {agent: 3}", ": names.agent: expected a name, got 3"),
        ("names: {agent: sppp}", ": names.agent: unknown agent 'sppp'; did you mean 'sppo'?"),
        ("agent: {etta: 1}", ": agent.etta: no such field; did you mean 'eta'? Known: "),
        ("agent: {eta: many}", ": agent.eta: expected float, got 'many'"),
        ("agent: {eta: true}", ": agent.eta: expected float, got True"),
        ("agent: {eta: -1}", ": agent: eta must be"),
        ("agent: {optimiser: 3}", ": agent.optimiser: expected a mapping, got 3"),
        ("agent: {optimiser: {warmup: 1.5}}", ": agent.optimiser.warmup: expected int, got 1.5"),
        ("agent: {average: 1}", ": agent.average: expected bool, got 1"),
        ("run: {batch_size: all}", ": run.batch_size: expected int or null, got 'all'"),
        ("run: {feedback: guess}", ": run.feedback: expected outcome or probability or thumb, got 'guess'"),
        ("run: {keep: 0}", ": run: run.keep must be at least 1, got 0"),
        ("run: {dir: 3}", ": run.dir: expected str or null, got 3"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, content, message, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    assert main(["--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}{message}")
    assert error.count("\n") == 1


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
    assert main(["--config", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err


def test_a_resumed_run_has_its_own_settings(tmp_path, run_yaml, capsys):
    assert main(["--resume", str(tmp_path), "--config", run_yaml]) == 2
    assert "has its own settings" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [None, "[8, 0.5]", "8"])
def test_tuples_are_lists_of_the_file(tmp_path, wrong):
    path = tmp_path / "model.json"
    path.write_text(f'{{"names": {{"task": "symbols", "policy": "sb3"}}, "policy": {{"hidden": {wrong or "[8, 8]"}}}}}')
    if wrong is None:
        assert parse(["--config", str(path)]).settings.configs["policy"].hidden == (8, 8)
    else:
        with pytest.raises(ValueError, match=r"policy.hidden: expected a list of int, got"):
            parse(["--config", str(path)])
