"""JSON of files: a byte order mark, blank lines, a line cut off, and the place of every fault."""

import pytest

from preference_duel.json_text import parse_json, read_json_lines


def test_lines_keep_their_numbers_and_a_cut_one_may_be_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n[2]\n{"a"')
    assert list(read_json_lines(path, unfinished=True)) == [(1, {"a": 1}), (3, [2])]
    with pytest.raises(ValueError, match=r"a\.jsonl:4: broken JSON: .* \(column 5\)"):
        list(read_json_lines(path))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a":\n"\xff"}', r"^FILE:8: not UTF-8 \(byte 7\); save the file as UTF-8"),
        (b'{"a":\n]', r"^FILE:8: broken JSON: .* \(column 1\)"),
        (b"[" * 100_000, "^FILE:7: broken JSON: nested too deeply"),
    ],
)
def test_faults_have_their_place(raw, message):
    with pytest.raises(ValueError, match=message):
        parse_json(raw, "FILE", line=7)
