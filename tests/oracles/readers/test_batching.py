from oracles.readers.batching import Budget, Memory


def test_budgets_bound_ids_and_squares():
    lengths = [3, 90, 7, 2048, 50, 50, 51, 1200]
    batches = list(Budget(200, 9000).batches(lengths))
    assert sorted(i for rows in batches for i in rows) == list(range(len(lengths)))
    for rows in batches:
        longest = max(lengths[i] for i in rows)
        assert len(rows) == 1 or (len(rows) * longest <= 200 and len(rows) * longest**2 <= 9000)
    assert [[lengths[i] for i in rows] for rows in batches] == [[3, 7, 50], [50, 51], [90], [1200], [2048]]


def test_batches_are_as_full_as_they_may_be():
    assert list(Budget(200, 10**6).batches([50] * 9)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert list(Budget(10**6, 5000).batches([50] * 5)) == [[0, 1], [2, 3], [4]]
    assert list(Budget(1, 1).batches([])) == []


def test_each_different_question_is_answered_once_while_there_is_room():
    memory, asked = Memory(3), []

    def length(questions):
        asked.extend(questions)
        return [float(len(question)) for question in questions]

    assert memory.answers(["aa", "b", "aa"], length) == [2, 1, 2]
    assert memory.answers(["aa", "ccc", "dddd"], length) == [2, 3, 4]
    assert asked == ["aa", "b", "ccc", "dddd"]
    assert len(memory) == 3
    memory.answers(["aa", "b"], length)
    assert asked[4:] == ["b"], "the least recently asked is forgotten first"
    memory.forget()
    memory.answers(["b"], length)
    assert asked[5:] == ["b"]


def test_more_questions_than_room_are_all_answered():
    assert Memory(0).answers(["a", "bb", "a"], lambda questions: [len(question) for question in questions]) == [1, 2, 1]
