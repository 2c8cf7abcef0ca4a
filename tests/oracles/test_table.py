"""Table oracles: answers to the last bit, and rejected files."""

import copy
import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from oracles import check_oracle
from oracles.table import TableConfig, TableOracle, exact_table, read_game
from tests.paths import GOLDEN

GAMES = GOLDEN / "games"
COMAL = [[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]]


def random_table(seed, *shape):
    logits = torch.randn(*shape, shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.sigmoid(logits - logits.mT)


@pytest.fixture
def write(tmp_path):
    def file(text, name="game.json"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return file


def test_the_shipped_games_are_the_published_ones():
    game = read_game(GAMES / "comal3.json")
    assert game.prob is not None
    assert torch.allclose(game.prob, torch.tensor(COMAL, dtype=torch.float64), atol=1e-15)
    oracle = oracles.make("table", path=str(GAMES / "rps.json"))
    winners = oracle.prob(["rock-paper-scissors"] * 3, ["paper", "scissors", "rock"], ["rock", "paper", "scissors"])
    assert torch.allclose(winners, torch.full((3,), 0.9).double(), atol=1e-15)


@pytest.mark.parametrize("name", ["comal3", "rps"])
def test_file_games_keep_the_contract(name):
    game = read_game(GAMES / f"{name}.json")
    oracle = oracles.make("table", path=str(GAMES / f"{name}.json"), prompts=game.prompts, responses=game.responses)
    check_oracle(oracle, game.prompts, [game.responses])


def test_one_matrix_per_prompt_answers_by_prompt(write):
    tables = random_table(0, 2, 3)
    path = write(json.dumps({"prompts": ["x", "z"], "responses": ["a", "b", "c"], "prob": tables.tolist()}))
    oracle = oracles.make("table", path=path)
    assert oracle.prob(["z", "x", "z"], ["a", "a", "b"], ["b", "b", "b"]).tolist() == [
        tables[1, 0, 1].item(), tables[0, 0, 1].item(), 0.5,
    ]  # fmt: skip
    check_oracle(oracle, ["x", "z"], [["a", "b", "c"], ["c", "a", "a"]])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_payoff_equals_prob_for_any_lists(data):
    texts, prompts = [f"y{i}" for i in range(5)], ["x", "z"]
    oracle = TableOracle(random_table(1, 2, 5), prompts, texts)
    asked = data.draw(st.lists(st.sampled_from(prompts), min_size=1, max_size=4))
    rows = []
    for size in (data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))):
        row = st.lists(st.sampled_from(texts), min_size=size, max_size=size)
        rows.append([data.draw(row | st.just(texts)) if size == 5 else data.draw(row) for _ in asked])
    matrix = oracle.payoff(asked, *rows)
    for b, x in enumerate(asked):
        for k, a in enumerate(rows[0][b]):
            for l, c in enumerate(rows[1][b]):
                assert matrix[b, k, l] == oracle.prob([x], [a], [c])[0]
                assert matrix[b, k, l] == oracle.matrix(x)[texts.index(a), texts.index(c)]


def test_whole_lists_need_no_new_index():
    texts = [f"y{i}" for i in range(5)]
    oracle = TableOracle(random_table(1, 5), ["x"], texts)
    assert oracle.columns(tuple(texts)) is oracle.columns(list(texts))
    assert oracle.columns(texts[::-1]).tolist() == [4, 3, 2, 1, 0]
    whole = oracle.payoff(["x"], [texts], [texts])
    whole.zero_()
    assert oracle.matrix("x").sum() > 0, "what is handed out is not the table itself"


def test_a_function_is_called_once_for_each_prompt_asked_about():
    called = []

    def matrix(row):
        called.append(row)
        return random_table(row, 3)

    oracle = TableOracle(matrix, ["x", "z", "w"], ["a", "b", "c"])
    assert called == []
    for _ in range(2):
        oracle.prob(["z", "x", "z"], ["a", "a", "b"], ["b", "c", "c"])
        oracle.payoff(["z"], [["a"]], [["b"]])
    assert sorted(called) == [0, 1]
    assert oracle.matrix("z")[0, 1] == random_table(1, 3)[0, 1]


def test_a_function_is_held_to_the_same_contract():
    oracle = TableOracle(lambda row: torch.full((2, 2), 0.7), ["x"], ["a", "b"])
    with pytest.raises(ValueError, match=r"prob of prompt 0\[0\]\[0\] = 0.7, but .* off by up to 0.4"):
        oracle.prob(["x"], ["a"], ["b"])


def test_tables_are_shared_by_copies_and_survive_pickling():
    oracle = oracles.make("cyclic", prompts=["x"], responses=["a", "b", "c"])
    assert copy.deepcopy([oracle])[0].matrix("x") is oracle.matrix("x")
    twin = pickle.loads(pickle.dumps(oracle))
    assert torch.equal(twin.payoff(["x"], [["a", "b", "c"]], [["a", "b"]]), oracle.matrix("x")[None, :, :2])


def test_asking_nothing_is_answered_with_nothing():
    assert TableOracle(random_table(0, 2), ["x"], ["a", "b"]).prob([], [], []).shape == (0,)


def test_unknown_texts_name_the_nearest():
    oracle = TableOracle(random_table(0, 3), ["weather"], ["sunny", "rainy", "foggy"])
    with pytest.raises(ValueError, match="no prompt 'wether'; did you mean 'weather'\\? It lists 1"):
        oracle.prob(["wether"], ["sunny"], ["rainy"])
    with pytest.raises(ValueError, match="no response 'suny'; did you mean 'sunny'\\? It lists 3"):
        oracle.payoff(["weather"], [["suny"]], [["rainy"]])
    with pytest.raises(ValueError, match=r"no response 'zzzzz.*\.\.\.\. It lists 3"):
        oracle.prob(["weather"], ["z" * 10_000], ["rainy"])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_tables_are_antisymmetric_to_the_last_bit(seed, count):
    table = exact_table("prob", random_table(seed, count).float(), None, count)
    assert torch.equal(table + table.T, torch.ones(count, count).double())
    assert torch.equal(table.diagonal(), torch.full((count,), 0.5).double())
    assert torch.allclose(table, random_table(seed, count), atol=1e-6)


@pytest.mark.parametrize(
    ("prob", "message"),
    [
        ([[0.5, 0.1], [0.9, 0.5]], r"prob must be \[3, 3\] or \[1, 3, 3\] for the prompts and responses, got \[2, 2\]"),
        ([[[0.5] * 3] * 3] * 2, r"got \[2, 3, 3\]"),
        ([[0.5] * 3, [0.5] * 2, [0.5] * 3], "'prob' must be numbers .* with rows of one length"),
        ([["a"] * 3] * 3, "'prob' must be numbers"),
        (0.5, r"got \[\]"),
        ([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.8, 0.5]], r"prob\[1\]\[2\] = 0.1, but .*= 1 .*off by up to 0.1"),
        ([[0.6, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]], r"prob\[0\]\[0\] = 0.6, but .* off by up to 0.2"),
        ([[0.5, float("nan"), 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]], r"prob\[0\]\[1\] = nan, but prob must lie in"),
        ([[0.5, 2.0, 0.8], [-1.0, 0.5, 0.1], [0.2, 0.9, 0.5]], r"prob\[0\]\[1\] = 2, but .* is it logits\?"),
    ],
)
def test_a_matrix_that_is_no_game_is_refused(write, prob, message):
    path = write(json.dumps({"prompts": ["x"], "responses": ["a", "b", "c"], "prob": prob}))
    with pytest.raises(ValueError, match=f"game.json.*{message}"):
        read_game(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompts": ["x"],\n "responses": ["a" "b"]}', r"game\.json:2: broken JSON: .* \(column 20\)"),
        ("", r"game\.json:1: broken JSON"),
        (b'{"prompts":\n ["\xff"]}', r"game\.json:2: not UTF-8 \(byte 15\)"),
        ("[1, 2]", r'a finite game is \{"prompts"'),
        ('{"prompts": ["x"], "responses": ["a"], "probs": []}', "unknown field 'probs'; did you mean 'prob'"),
        ('{"responses": ["a"]}', "'prompts' must be a list of at least one string, got None"),
        ('{"prompts": [], "responses": ["a"]}', "'prompts' must be a list of at least one string, got \\[\\]"),
        ('{"prompts": ["x"], "responses": "abc"}', "'responses' must be a list"),
        ('{"prompts": ["x"], "responses": ["a", ""]}', r"responses\[1\] must be a non-empty string, got ''"),
        ('{"prompts": ["x"], "responses": ["a", 3]}', r"responses\[1\] must be a non-empty string, got 3"),
        ('{"prompts": ["x"], "responses": ["a", "b", "a"]}', r"distinct, but 'a' is responses\[0\] and \[2\]"),
        ('{"prompts": ["x", "x"], "responses": ["a"]}', r"prompts must be distinct, but 'x' is prompts\[0\] and \[1\]"),
        ('{"prompts": ["x"], "responses": ["\\ud83d"]}', r"responses\[0\] has half a surrogate pair"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_game_says_where(write, text, message):
    with pytest.raises(ValueError, match=message):
        read_game(write(text))


def test_a_byte_order_mark_and_odd_texts_are_fine(write):
    responses = ["🦊", "مرحبا", "a\nb", "nul\0", "é", "e\u0301"]
    game = read_game(write(b"\xef\xbb\xbf" + json.dumps({"prompts": ["x"], "responses": responses}).encode()))
    assert game.responses == tuple(responses)
    assert game.prob is None


def test_the_configuration_says_what_it_lacks(write):
    with pytest.raises(ValueError, match=r"pass --oracle\.path FILE\.json"):
        TableConfig().build()
    with pytest.raises(ValueError, match="has no 'prob'"):
        TableConfig(write('{"prompts": ["x"], "responses": ["a", "b"]}')).build()
    with pytest.raises(ValueError, match="no response 'aaa'"):
        TableConfig(str(GAMES / "comal3.json")).build(prompts=["COMAL-3"], responses=["aaa", "b"])
    with pytest.raises(ValueError, match="no prompt '#0'"):
        TableConfig(str(GAMES / "comal3.json")).build(prompts=["#0"], responses=["a", "b"])
    with pytest.raises(FileNotFoundError):
        TableConfig(str(GAMES / "none.json")).build()
