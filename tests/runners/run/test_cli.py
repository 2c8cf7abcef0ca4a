import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path

import pytest

from preference_duel.names import UnknownNameError
from runners.duel import main
from runners.run.cli import parse
from runners.run.config import PARTS, RunConfig, Settings, fields_of, filled
from runners.run.record import Record
from tests.paths import GOLDEN

LAB = GOLDEN / "my_lab" / "my_lab.py"
OUTSIDE = {
    "--task": "my_lab:LettersConfig",
    "--policy": "my_lab:TableConfig",
    "--oracle": "my_lab:LadderConfig",
    "--agent": "my_lab:NudgeConfig",
}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A working directory that holds somebody else's module."""
    (tmp_path / "my_lab.py").write_text(LAB.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def command(directory, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "runners.duel", *arguments],
        cwd=directory,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def recorded(directory, *arguments):
    """A run directory that was started and not yet played."""
    settings = parse(arguments).settings
    Record(directory, settings, arguments, "cpu", 1).close()
    return settings


def test_free_text_has_the_embedded_policy_and_judge():
    settings = parse([]).settings
    assert settings.names == {"task": "chat", "policy": "tiny", "oracle": "pairrm", "agent": "sppo"}
    assert settings.configs["oracle"].checkpoint == "embedded"


@pytest.mark.parametrize("policy", ["somebody/model", "hf"])
def test_policy_of_other_people_is_judged_by_the_published_checkpoint(policy):
    arguments = ["--policy", policy, *(["--policy.path", "somebody/model"] if policy == "hf" else [])]
    settings = parse(arguments).settings
    assert settings.configs["policy"].path == "somebody/model"
    assert settings.configs["oracle"].checkpoint == "llm-blender/PairRM"
    assert parse([*arguments, "--oracle.checkpoint", "x"]).settings.configs["oracle"].checkpoint == "x"


def test_required_field_is_asked_for(capsys):
    with pytest.raises(SystemExit):
        parse(["--policy", "hf"])
    assert "--policy.path" in capsys.readouterr().err


def test_finite_task_has_a_table_and_a_cycle():
    assert parse(["--task", "symbols"]).settings.names == {
        "task": "symbols", "policy": "tabular", "oracle": "cyclic", "agent": "sppo",
    }  # fmt: skip


def test_game_with_its_own_payoff_is_judged_by_it(tmp_path):
    game = {"prompts": ["?"], "responses": ["a", "b"]}
    (tmp_path / "plain.json").write_text(json.dumps(game))
    (tmp_path / "full.json").write_text(json.dumps({**game, "prob": [[0.5, 0.7], [0.3, 0.5]]}))
    plain, full = (parse(["--task", str(tmp_path / f"{name}.json")]).settings for name in ("plain", "full"))
    assert (plain.names["oracle"], full.names["oracle"]) == ("cyclic", "table")
    assert full.configs["oracle"].path == full.configs["task"].path == str(tmp_path / "full.json")


def test_fields_are_read_for_every_part():
    fields = "--task.length 2 --policy.exact --oracle.lam 0.75 --agent.eta 2 --run.batch_size None"
    settings = parse(["--task", "symbols", *fields.split(), "--run.feedback", "probability"]).settings
    assert settings.configs["task"].length == 2
    assert settings.configs["policy"].exact
    assert settings.configs["oracle"].lam == 0.75
    assert settings.configs["agent"].eta == 2
    assert (settings.run.batch_size, settings.run.feedback) == (None, "probability")


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["--task", "symbol"], "'symbols'"),
        (["--task", "symbols", "--policy", "tabulr"], "'tabular'"),
        (["--task", "symbols", "--oracle", "cyclc"], "'cyclic'"),
        (["--task", "symbols", "--agent", "spppo"], "'sppo'"),
    ],
)
def test_unknown_name_suggests_the_nearest(arguments, nearest, capsys):
    with pytest.raises(UnknownNameError, match=f"did you mean {nearest}"):
        parse(arguments)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown ")
    assert error.count("\n") == 1


def test_unknown_field_suggests_the_nearest(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--task", "symbols", "--agent.optimiser.learning_rat", "0.1"])
    assert end.value.code == 2
    assert "--agent.optimiser.learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["--run.steps=-1", "--run.keep=0", "--run.batch_size=0", "--run.feedback=guess"])
def test_value_out_of_range_is_a_wrong_command_line(value, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--task", "symbols", value])
    assert end.value.code == 2
    assert value.split("=")[0][2:] in capsys.readouterr().err


def test_errors_are_one_line_unless_the_traceback_is_wanted(tmp_path, monkeypatch, capsys):
    wrong = ["--task", "symbols", "--oracle.lam", "3", "--run.dir", str(tmp_path / "run")]
    assert main(wrong) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: lam must lie in [0, 1]")
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("DUEL_TRACEBACK", "1")
    assert main(wrong) == 1
    assert "Traceback" in capsys.readouterr().err


def test_missing_module_names_what_was_looked_for(capsys):
    assert main(["--task", "symbols", "--agent", "no_such_lab.agents:Config"]) == 2
    assert "no module 'no_such_lab'" in capsys.readouterr().err


def test_thing_without_build_is_refused(lab, capsys):
    assert main(["--task", "symbols", "--agent", "my_lab:Nudge"]) == 2
    assert "must be a dataclass with a build() method" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        ("--help", "--agent.step_size 0.5"),
        pytest.param("--help-all", "--agent.step_size FLOAT", marks=pytest.mark.slow),
    ],
)
def test_help_of_outside_parts_shows_their_fields_in_any_directory(lab, flag, field):
    done = command(lab, *[word for pair in OUTSIDE.items() for word in pair], flag)
    assert done.returncode == 0, done.stderr
    for words in (field, "Of the logits, > 0.", "--oracle.steepness", "Nats per letter"):
        assert words in done.stdout
    for words in ("--task.prompts", "--run.steps", "Updates of the agent", "--resume"):
        assert words in done.stdout


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 0
    return capsys.readouterr().out


def test_help_is_two_screens_and_names_every_field_of_the_chosen_parts(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = help_of(capsys, "--help")
    assert len(text.splitlines()) <= 90
    assert max(map(len, text.splitlines())) <= 120
    for part, config in {**parse([]).settings.configs, "run": RunConfig()}.items():
        for name, value in vars(config).items():
            shown = "data" if (part, name) == ("run", "reading") else name
            assert f"--{part}.{shown}{'.* ' if is_dataclass(value) else ' '}" in text
            assert not is_dataclass(value) or ", ".join(vars(value)) in text
    assert "--oracle.lam " not in text  # of another oracle
    assert "--agent.eta 1.0 " in text
    assert "--agent.average (on) " in text


def test_help_marks_what_is_required(capsys):
    assert "--policy.path (required) " in help_of(capsys, "--policy", "hf", "--help")


def test_full_help_has_types_choices_and_nested_fields(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = help_of(capsys, "--help-all")
    for words in ("--policy.lora.rank INT", "{rmsprop,adamw,sgd,lbfgs}", "--agent.no_average", "--run.data.soft"):
        assert words in text


@pytest.mark.parametrize("name", ["agents", "envs", "oracles"])
def test_shadowing_package_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = command(tmp_path, "--task", "symbols", "--run.steps", "0")
    assert done.returncode == 1
    assert f"'{name}' of preference-duel" in done.stderr
    assert str(tmp_path / name / "__init__.py") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_folder_that_is_no_package_shadows_nothing_or_is_named(tmp_path):
    (tmp_path / "agents").mkdir()
    done = command(tmp_path, "--task", "symbols", "--run.steps", "0")
    assert done.returncode == 0 or f"hidden by {tmp_path / 'agents'}" in done.stderr
    assert "Traceback" not in done.stderr


@dataclass(frozen=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True)
class Everything:
    path: Path = Path("a/b")
    betas: tuple[float, float] = (0.9, 0.99)
    layers: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)
    name: str | None = None
    rest: tuple[str, ...] | None = None


@pytest.mark.parametrize("value", [Everything(), Everything(Path("c"), (0.1, 1.0), (), Inner(3), "x", ("y", "z"))])
def test_config_returns_from_json_as_it_was(value):
    assert filled(Everything, json.loads(json.dumps(fields_of(value)))) == value


def test_config_that_json_cannot_hold_is_refused():
    @dataclass(frozen=True)
    class Odd:
        value: object = 1j

    with pytest.raises(ValueError, match=r"Odd.value = 1j can't be written"):
        fields_of(Odd())


def test_settings_return_from_json_as_they_were():
    settings = parse(["--task", "symbols", "--agent.eta", "3", "--run.threads", "2"]).settings
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_unknown_recorded_field_is_named():
    with pytest.raises(ValueError, match="RunConfig has no field 'stepz'; did you mean 'steps'"):
        filled(RunConfig, {"stepz": 3})


def test_resumed_run_takes_its_settings_from_its_directory(tmp_path):
    before = recorded(tmp_path / "run", "--task", "symbols", "--agent.eta", "3", "--run.steps", "7")
    again = parse(["--resume", str(tmp_path / "run")])
    assert again.resume == tmp_path / "run"
    assert {part: again.settings.configs[part] for part in PARTS} == before.configs
    assert again.settings.run.steps == 7
    assert parse(["--resume", str(tmp_path / "run"), "--run.steps", "9"]).settings.run.steps == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--run.seed", "1"],
            r"--run.seed 1 does not fit .* which has 0; only --run.steps and --run.parallel may change",
        ),
        (["--agent.eta", "1"], "--agent.eta 1.0 does not fit .* which has 3.0"),
        (["--oracle", "bt"], "--oracle bt: the run in .* has --oracle cyclic"),
        (["--run.dir", "elsewhere"], "--run.dir elsewhere does not fit"),
    ],
)
def test_resumed_run_refuses_other_settings(tmp_path, arguments, message):
    recorded(tmp_path / "run", "--task", "symbols", "--agent.eta", "3")
    with pytest.raises(ValueError, match=message):
        parse(["--resume", str(tmp_path / "run"), *arguments])


@pytest.mark.parametrize("content", [None, "{", '{"names": {}}'])
def test_resume_needs_a_run_directory(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert main(["--resume", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
