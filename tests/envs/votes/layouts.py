"""Five invented rows in each layout of public preference data, and what they say."""

QUESTIONS = [
    "Where do swifts sleep?",
    "Why is basalt dark?",
    "How deep is a fjord?",
    "When do limes bloom?",
    "Who mends bells?",
]
FIRST = ["On the wing.", "Iron makes it dark.", "Up to 1300 metres.", "In early June.", "A bell founder."]
SECOND = ["In beds.", "It burnt.", "Quite deep.", "Never.", "Nobody does."]
OUTCOMES = [1.0, 0.0, 0.5, 1.0, 0.0]
ROWS = list(zip(QUESTIONS, FIRST, SECOND, OUTCOMES, strict=True))
SYSTEM = "Answer in one line."
EARLIER = "Good morning."
GREETING = "Good morning to you."


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def parts(text):
    return [{"type": "text", "text": text, "image": None}]


def hh(*texts):
    return "".join(f"\n\n{'Assistant' if i % 2 else 'Human'}: {text}" for i, text in enumerate(texts))


def choose(outcome, first, second, tie=None):
    return {1.0: first, 0.0: second, 0.5: tie}[outcome]


def chosen_first(make):
    """Rows of formats without ties, which name the better one."""
    return [make(q, *((a, b) if o else (b, a))) for q, a, b, o in ROWS]


def seated(make):
    return [make(*row) for row in ROWS]


def battle(q, a, b, o, content=str, tie="tie (bothbad)"):
    return {
        "model_a": "wren",
        "model_b": "rook",
        "winner": choose(o, "model_a", "model_b", tie),
        "conversation_a": [{"role": "user", "content": content(q)}, {"role": "assistant", "content": content(a)}],
        "conversation_b": [{"role": "user", "content": content(q)}, {"role": "assistant", "content": content(b)}],
    }


LAYOUTS = {
    "chosen_rejected": chosen_first(lambda q, a, b: {"prompt": q, "chosen": a, "rejected": b}),
    "chosen_rejected ultrafeedback_binarized": chosen_first(
        lambda q, a, b: {
            "prompt": q,
            "prompt_id": q[:3],
            "chosen": [user(q), bot(a)],
            "rejected": [user(q), bot(b)],
            "messages": [user(q), bot(a)],
            "score_chosen": 8.0,
            "score_rejected": 4.5,
        }
    ),
    "chosen_rejected reward_bench": chosen_first(
        lambda q, a, b: {"prompt": q, "chosen": a, "chosen_model": "wren", "rejected": b, "rejected_model": "rook"}
    ),
    "chosen_rejected parts": chosen_first(
        lambda q, a, b: {
            "prompt": [{"role": "user", "content": parts(q)}],
            "chosen": [{"role": "assistant", "content": parts(a)}],
            "rejected": [{"role": "assistant", "content": parts(b)}],
        }
    ),
    "chosen_rejected capybara": chosen_first(
        lambda q, a, b: {
            "prompt": EARLIER,
            "chosen": [user(EARLIER), bot(GREETING), user(q), bot(a)],
            "rejected": [user(EARLIER), bot(GREETING), user(q), bot(b)],
        }
    ),
    "chosen_rejected system": chosen_first(
        lambda q, a, b: {
            "prompt": q,
            "chosen": [system(SYSTEM), user(q), bot(a)],
            "rejected": [system(SYSTEM), user(q), bot(b)],
        }
    ),
    "implicit_prompt messages": chosen_first(
        lambda q, a, b: {"chosen": [user(q), bot(a)], "rejected": [user(q), bot(b)]}
    ),
    "implicit_prompt hh_rlhf": chosen_first(
        lambda q, a, b: {"chosen": hh(EARLIER, GREETING, q, a), "rejected": hh(EARLIER, GREETING, q, b)}
    ),
    "implicit_prompt text": chosen_first(lambda q, a, b: {"chosen": f"{q} {a}", "rejected": f"{q} {b}"}),
    "orca": chosen_first(lambda q, a, b: {"system": SYSTEM, "question": q, "chosen": a, "rejected": b}),
    "sharegpt": chosen_first(
        lambda q, a, b: {
            "conversations": [{"from": "human", "value": q}],
            "chosen": {"from": "gpt", "value": a},
            "rejected": {"from": "gpt", "value": b},
        }
    ),
    "messages": chosen_first(lambda q, a, b: {"messages": [user(q)], "chosen": bot(a), "rejected": bot(b)}),
    "alpaca": chosen_first(
        lambda q, a, b: {
            "instruction": q,
            "input": "",
            "history": [[EARLIER, GREETING]],
            "chosen": a,
            "rejected": b,
        }
    ),
    "first_second": seated(lambda q, a, b, o: {"prompt": q, "first": a, "second": b, "outcome": o}),
    "duels": seated(lambda q, a, b, o: {"step": 3, "prompt": q, "left": a, "right": b, "prob": o}),
    "arena 33k": seated(lambda q, a, b, o: {"question_id": q[:4], "judge": "kim", "turn": 1, **battle(q, a, b, o)}),
    "arena 140k": seated(lambda q, a, b, o: battle(q, a, b, o, parts, "both_bad")),
    "helpsteer2": seated(
        lambda q, a, b, o: {
            "split": "train",
            "prompt": f"{EARLIER}\n<extra_id_1>Assistant\n{GREETING}\n<extra_id_1>User\n{q}",
            "response_1": a,
            "response_2": b,
            "preference_strength": choose(o, -3, 2, 0),
        }
    ),
    "helpsteer3": seated(
        lambda q, a, b, o: {
            "context": [user(EARLIER), bot(GREETING), user(q)],
            "response1": a,
            "response2": b,
            "overall_preference": choose(o, -1, 3, 0),
        }
    ),
    "pku": [
        {"prompt": q, "response_0": a, "response_1": b, "better_response_id": i % 2, "safer_response_id": 0}
        for i, (q, a, b, _) in enumerate(ROWS)
    ],
    "shp": [
        {"history": q, "human_ref_A": a, "human_ref_B": b, "labels": (i + 1) % 2, "score_ratio": 2.0}
        for i, (q, a, b, _) in enumerate(ROWS)
    ],
    "summarize": [
        {
            "info": {"id": str(i), "post": q, "article": None},
            "summaries": [{"text": a, "policy": "wren"}, {"text": b, "policy": "rook"}],
            "choice": i % 2,
            "worker": "kim",
        }
        for i, (q, a, b, _) in enumerate(ROWS)
    ],
    "alpaca_eval": seated(
        lambda q, a, b, o: {
            "instruction": q,
            "output_1": a,
            "generator_1": "wren",
            "output_2": b,
            "generator_2": "rook",
            "annotator": "kim",
            "preference": 2 - o,
        }
    ),
    "nectar": seated(
        lambda q, a, b, o: {
            "prompt": f"\n\nHuman: {q}\n\nAssistant: ",
            "answers": [
                {"answer": a, "model": "wren", "rank": choose(o, 1.0, 2.0, 1.0)},
                {"answer": b, "model": "rook", "rank": choose(o, 2.0, 1.0, 1.0)},
            ],
        }
    ),
    "ranking": seated(lambda q, a, b, o: {"prompt": q, "responses": [a, b], "scores": [o, 1 - o]}),
    "ranked": [
        {"prompt": q, "responses": [a, b], "ranking": [1 + i % 2, 2 - i % 2]} for i, (q, a, b, _) in enumerate(ROWS)
    ],
    "distilabel": seated(
        lambda q, a, b, o: {
            "instruction": q,
            "generations": [a, b],
            "generation_models": ["wren", "rook"],
            "ratings": [o, 1 - o],
        }
    ),
    "ultrafeedback": seated(
        lambda q, a, b, o: {
            "instruction": q,
            "completions": [
                {"response": a, "model": "wren", "overall_score": o},
                {"response": b, "model": "rook", "overall_score": 1 - o},
            ],
        }
    ),
}
"""Rows by "FORMAT VARIANT"."""
NO_TIES = [1.0, 0.0, 1.0, 0.0, 1.0]
"""Outcomes of pku, shp and summarize, which know no ties."""
NAMES = {
    "winner_loser": [
        {"winner": "wren", "loser": "rook"},
        {"winner": "rook", "loser": "wren"},
        {"winner": "rook", "loser": "daw"},
        {"winner": "daw", "loser": "wren"},
        {"winner": "wren", "loser": "rook"},
    ],
    "crowd": [
        {"prompt": 8, "model_x": 1, "model_y": 2, "worker": 70 + i, "winner": won, "left": "wren", "right": "rook"}
        for i, won in enumerate(["left", "right", "tie", "left", "right"])
    ],
}
"""Rows that name items and hold no texts."""
