import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import agents
import envs
import oracles
from envs.tasks.grammar import DRAWS, STYLES, parse, prompts, sample_answer, sample_corpus
from envs.tasks.tokenizers import FileTokenizer
from oracles.check import check_oracle
from oracles.pairrm.oracle import PairRMConfig
from preference_duel.keyed_random import Key
from runners.pretrain.__main__ import main
from runners.pretrain.policy import MAX_NEW_TOKENS, encode_pairs, measure_policy
from runners.pretrain.population import population_prob
from runners.pretrain.questions import Mix, damage, measure_judge, sample_questions

TINY = Path(agents.__file__).parent / "checkpoints" / "tiny"
CHAT = Path(envs.__file__).parent / "data" / "chat"
PAIRRM = Path(oracles.__file__).parent / "checkpoints" / "pairrm-tiny"
MADE = ("agents/checkpoints/tiny", "envs/data/chat", "oracles/checkpoints/pairrm-tiny")


def load_policy(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(
        folder
    )


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("rebuilt")
    main(["--small", "--out", str(root)])
    yield root
    torch.set_num_threads(threads)


def files(root):
    return {path.relative_to(root): path.read_bytes() for folder in MADE for path in (root / folder).rglob("*.*")}


@pytest.mark.slow
def test_a_rebuild_gives_the_same_bytes_and_another_seed_others(rebuilt, tmp_path, capsys):
    first = {path: data for path, data in files(rebuilt).items() if path.name != "README.md"}
    assert len(first) == 12
    main(["--small", "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    assert {path: data for path, data in files(tmp_path).items() if path.name != "README.md"} == first
    for folder in (MADE[0], MADE[2]):
        assert (tmp_path / folder / "README.md").read_text().split("\n# ")[1] in shown, "the card is what was printed"
    main(["--small", "--seed", "1", "--only", "policy", "--out", str(tmp_path)])
    weights = Path(MADE[0]) / "model.safetensors"
    assert files(tmp_path)[weights] != first[weights]


@pytest.mark.slow
def test_a_rebuilt_policy_loads_and_answers(rebuilt):
    model, tokenizer = load_policy(rebuilt / MADE[0])
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "How do I cook rice?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    assert prompt.tolist() == [[2, *tokenizer.encode("How do I cook rice?"), 3]]
    assert model.generate(prompt, max_new_tokens=3, do_sample=False).shape == (1, prompt.shape[1] + 3)
    assert PairRMConfig(checkpoint=str(rebuilt / MADE[2])).build().prob(["a"], ["b"], ["c"]).shape == (1,)


@pytest.mark.slow
def test_the_shipped_files_are_what_the_command_makes(rebuilt):
    shipped = {path.name for folder in (TINY, CHAT, PAIRRM) for path in folder.rglob("*.*")}
    assert shipped == {path.name for path in files(rebuilt)}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (TINY / name).read_bytes() == (rebuilt / MADE[0] / name).read_bytes(), "the small run has every word too"
    assert (CHAT / "prompts.jsonl").read_bytes() == (rebuilt / MADE[1] / "prompts.jsonl").read_bytes()
    assert (PAIRRM / "tokenizer.json").read_bytes() == (rebuilt / MADE[2] / "tokenizer.json").read_bytes()
    total = sum(path.stat().st_size for folder in (TINY, CHAT, PAIRRM) for path in folder.rglob("*.*"))
    assert total < 5_000_000


@pytest.mark.slow
def test_weights_are_stored_in_half_precision(rebuilt):
    for folder in (rebuilt / MADE[0], rebuilt / MADE[2], TINY, PAIRRM):
        assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}


def test_the_prompts_are_the_grammars():
    lines = [json.loads(line) for line in (CHAT / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    for split in ("train", "held_out"):
        assert tuple(line["prompt"] for line in lines if line["split"] == split) == prompts(split)
    assert len(lines) == len(prompts("train")) + len(prompts("held_out"))


def test_both_tokenizers_give_the_same_ids_and_no_text_is_lost():
    from transformers import AutoTokenizer

    auto, plain = AutoTokenizer.from_pretrained(TINY), FileTokenizer(str(CHAT / "tokenizer.json"), "<eos>", "<pad>")
    assert (auto.pad_token_id, auto.eos_token_id) == (plain.pad_id, plain.eos_id) == (0, 1)
    assert auto.convert_tokens_to_ids(["<user>", "<assistant>"]) == [2, 3]
    assert len(auto) == plain.vocab_size
    texts = [text for pair in sample_corpus(prompts("held_out"), 500, Key(3)) for text in pair]
    for text in [*texts, "naïve café 汉字 \U0001f980\n\ttabs", "<|source|> [SEP]"]:
        ids = plain.encode(text)
        assert auto.encode(text) == ids
        assert plain.decode(ids) == text
        assert auto.decode(ids) == text
    assert max(len(plain.encode(text)) for text in texts) < MAX_NEW_TOKENS


def test_the_loss_counts_the_answer_and_its_end_alone():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    ids, mask = encode_pairs(
        tokenizer, [("How do I cook rice?", "Rinse the rice."), ("Tell me about cooking rice.", "Rest.")]
    )
    assert [tokenizer.decode(row[keep]) for row, keep in zip(ids, mask, strict=True)] == [
        "Rinse the rice.<eos>",
        "Rest.<eos>",
    ]
    assert (ids[1][mask[1].nonzero().max() + 1 :] == 0).all()


@pytest.mark.slow
def test_the_shipped_policy_speaks_the_grammar_half_of_the_time_off_topic():
    figures = measure_policy(*load_policy(TINY), samples=384, seed=1)
    assert figures["parse_share"] >= 0.97
    assert 0.4 <= figures["on_topic_share"] <= 0.6
    assert figures["perplexity"] < 2


def test_the_shipped_judge_judges_as_its_population_does():
    figures = measure_judge(PairRMConfig().build(), samples=300, seed=1)
    assert figures["vote_accuracy"] >= figures["best_accuracy"] - 0.03
    assert figures["cyclic_share"] >= 0.8
    assert figures["off_topic_loses"] >= 0.9


def test_the_shipped_judge_is_an_oracle():
    asked = prompts("held_out")[:2]
    rows = Key(5).uniform(k=range(DRAWS), l=[[i] for i in range(3)]).tolist()
    answers = [[sample_answer(x, style, True, row) for style, row in zip(STYLES, rows, strict=True)] for x in asked]
    check_oracle(PairRMConfig().build(), asked, answers)


@pytest.mark.slow
def test_all_shipped_figures_hold():
    policy = measure_policy(*load_policy(TINY), samples=4096, seed=2)
    assert policy["parse_share"] >= 0.97
    assert 0.4 <= policy["on_topic_share"] <= 0.6
    judge = measure_judge(PairRMConfig().build(), samples=4000, seed=2)
    assert judge["vote_accuracy"] >= judge["best_accuracy"] - 0.03
    assert judge["cyclic_share"] >= 0.8
    assert judge["off_topic_loses"] >= 0.9


class Population:
    antisymmetric = True

    def prob(self, asked, first, second):
        return torch.tensor([population_prob(*question) for question in zip(asked, first, second, strict=True)])


def test_the_population_itself_gets_full_marks():
    figures = measure_judge(Population(), samples=200, seed=0)
    assert figures["vote_accuracy"] == pytest.approx(figures["best_accuracy"])
    assert figures["mean_error"] == pytest.approx(0, abs=1e-6)
    assert figures["cyclic_share"] == figures["off_topic_loses"] == figures["broken_loses"] == 1


def test_questions_come_in_the_shares_asked_for():
    asked = sample_questions(prompts("train"), Mix(on_topic=0.9, broken=0.4), 2000, Key(1))
    assert asked[:9] == sample_questions(prompts("train"), Mix(on_topic=0.9, broken=0.4), 9, Key(1))
    lost = sum(parse(a) is None for _, a, _ in asked) / len(asked)
    assert lost == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize(
    ("fault", "damaged"),
    [
        (0.0, "Rinse rice."),
        (0.2, "Rinse the the rice."),
        (0.3, "Rinse rice. the"),
        (0.5, "Rinse dough. rice."),
        (0.6, "Rinse"),
        (0.8, "the rice."),
        (0.9, "Rinse dough."),
    ],
)
def test_each_fault_by_hand(fault, damaged):
    assert damage("Rinse the rice.", "Knead the dough.", [fault, 0.4, 0.7]) == damaged
