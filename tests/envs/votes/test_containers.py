"""Containers of records: what the first bytes tell, the places of records, equality with pandas, and broken files."""

import gzip
import json
from pathlib import Path

import pandas
import pyarrow
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from envs.votes.containers import BATCH, Broken, read_batches

RECORDS = [
    {"prompt": "Why?", "chosen": 'Because, "so".', "rejected": "No."},
    {"prompt": "How\nmany?", "chosen": "Four; or\tfive.", "rejected": "é"},
    {"prompt": "Who?", "chosen": "A wren.", "rejected": "A rook."},
]


def lines(records):
    return "\n".join(json.dumps(record) for record in records).encode()


def table(separator):
    return pandas.DataFrame(RECORDS).to_csv(sep=separator, index=False).encode()


def parquet_bytes(records):
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(records), sink)
    return sink.getvalue().to_pybytes()


CONTAINERS = {
    "lines": (lines(RECORDS), ":", [1, 2, 3]),
    "lines with a mark, blanks and carriage returns": (
        b"\xef\xbb\xbf" + lines(RECORDS).replace(b"\n", b"\r\n\r\n"),
        ":",
        [1, 3, 5],
    ),
    "array": (json.dumps(RECORDS).encode(), " row ", [0, 1, 2]),
    "array over lines": (json.dumps(RECORDS, indent=2).encode(), " row ", [0, 1, 2]),
    "csv": (table(","), ":", [2, 3, 5]),
    "csv after a blank line": (b"\n" + table(","), ":", [3, 4, 6]),
    "tsv": (table("\t"), ":", [2, 3, 5]),
    "csv with semicolons": (b"\xef\xbb\xbf" + table(";"), ":", [2, 3, 5]),
    "parquet": (parquet_bytes(RECORDS), " row ", [0, 1, 2]),
}


def read(path, split=None):
    found = [
        (batch.place(i), record) for batch in read_batches(str(path), split) for i, record in enumerate(batch.records)
    ]
    return [place for place, _ in found], [record for _, record in found]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_is_told_by_its_first_bytes(name, packed, tmp_path):
    content, between, numbers = CONTAINERS[name]
    path = tmp_path / "data.txt"
    path.write_bytes(gzip.compress(content) if packed else content)
    places, records = read(path)
    assert records == RECORDS
    assert places == [f"{path}{between}{number}" for number in numbers]


def test_files_are_read_as_pandas_reads_them(tmp_path):
    (tmp_path / "a.csv").write_bytes(table(","))
    (tmp_path / "a.parquet").write_bytes(parquet_bytes(RECORDS))
    (tmp_path / "a.jsonl").write_bytes(lines(RECORDS))
    assert read(tmp_path / "a.csv")[1] == pandas.read_csv(tmp_path / "a.csv").to_dict("records")
    assert read(tmp_path / "a.parquet")[1] == pandas.read_parquet(tmp_path / "a.parquet").to_dict("records")
    assert read(tmp_path / "a.jsonl")[1] == pandas.read_json(tmp_path / "a.jsonl", lines=True).to_dict("records")


@pytest.mark.parametrize("write", [lines, parquet_bytes, lambda records: pandas.DataFrame(records).to_csv().encode()])
def test_long_files_are_read_in_batches(write, tmp_path):
    path = tmp_path / "data"
    path.write_bytes(write([{"a": str(i), "b": "x"} for i in range(BATCH + 5)]))
    batches = list(read_batches(str(path)))
    assert [len(batch.records) for batch in batches] == [BATCH, 5]
    assert [record["a"] for record in batches[1].records] == [str(BATCH + i) for i in range(5)]


def test_a_directory_is_read_split_by_split(tmp_path):
    saved = {"save_to_disk": tmp_path / "saved", "files": tmp_path / "files"}
    DatasetDict(train=Dataset.from_list(RECORDS[:2]), test=Dataset.from_list(RECORDS[2:])).save_to_disk(
        saved["save_to_disk"]
    )
    saved["files"].mkdir()
    (saved["files"] / "train.jsonl").write_bytes(lines(RECORDS[:2]))
    (saved["files"] / "test.jsonl").write_bytes(lines(RECORDS[2:]))
    for folder in saved.values():
        for path in (str(folder), f"hf:{folder}"):
            assert read(path)[1] == RECORDS[:2]
            assert read(path, "test")[1] == RECORDS[2:]
            with pytest.raises(ValueError, match=r"has no split 'tests'. It has train, test"):
                read(path, "tests")
    assert read(saved["save_to_disk"])[0] == [f"{saved['save_to_disk']} row {i}" for i in (0, 1)]
    assert read(saved["files"])[0] == [f"{saved['files'] / 'train.jsonl'}:{i}" for i in (1, 2)]


def test_a_directory_without_train_asks_for_a_split(tmp_path):
    for name in ("train_prefs", "test_prefs"):
        (tmp_path / f"{name}.parquet").write_bytes(parquet_bytes(RECORDS))
    splits = "".join(f"  - split: {name}\n    path: {name}.parquet\n" for name in ("train_prefs", "test_prefs"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n")
    with pytest.raises(
        ValueError, match=r"has no split 'train'; name one with data.split. It has train_prefs, test_prefs"
    ):
        read(tmp_path)
    assert read(tmp_path, "test_prefs")[1] == RECORDS


def test_files_of_a_directory_may_differ_in_their_columns(tmp_path):
    (tmp_path / "train_a.jsonl").write_bytes(lines(RECORDS[:1]))
    (tmp_path / "train_b.jsonl").write_bytes(lines([RECORDS[1] | {"source": "web"}]))
    assert read(tmp_path)[1] == [RECORDS[0], RECORDS[1] | {"source": "web"}]


def test_a_table_of_settings_of_its_own_is_read_by_datasets(tmp_path):
    config = '---\nconfigs:\n- config_name: default\n  data_files: train.csv\n  sep: "|"\n---\n'
    one, other = tmp_path / "one" / "votes", tmp_path / "other" / "votes"
    for folder in (one, other):
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(config)
        (folder / "train.csv").write_text(f"a|b\n1|{folder.parent.name}\n", encoding="utf-8")
        assert read(folder)[1] == [{"a": 1, "b": folder.parent.name}]
    (one / "train.csv").write_text("a|b\n7|edited\n", encoding="utf-8")
    assert read(one)[1] == [{"a": 7, "b": "edited"}]
    (one / "train.csv").write_text("a|b\n1|x\n2|y|z\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"hf:\S+: An error occurred while generating the dataset \S") as error:
        read(one)
    assert "\n" not in str(error.value)


def test_broken_records_are_named_and_the_others_read(tmp_path):
    path = tmp_path / "FILE"
    path.write_bytes(lines(RECORDS) + b'\n{"prompt": "half a li\n"\xff"\n' + lines(RECORDS[:1]))
    places, records = read(path)
    assert [records[i] for i in (0, 1, 2, 5)] == [*RECORDS, RECORDS[0]]
    assert places[3:5] == [f"{path}:4", f"{path}:5"]
    assert records[3].message.startswith("broken JSON: ")
    assert records[4] == Broken("not UTF-8 (byte 1); save the file as UTF-8")
    path.write_bytes(b'a,b\n1,2\n3\n"4"x,5\n6,"seven\n')
    places, records = read(path)
    assert records[0] == {"a": "1", "b": "2"}
    assert records[1] == Broken("must have 2 cells as the header has, got 1")
    assert [record.message[:10] for record in records[2:]] == ["broken CSV"] * 2
    assert places == [f"{path}:{i}" for i in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04abc", "is a zip archive or a workbook; make it JSON lines"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS, whose data was not downloaded"),
        (b"\xff\xfea\x00", "is UTF-16 text"),
        (b'{\n "data": [\n  {"prompt": "x"}\n ]\n}\n', "is one JSON object over several lines; make it a JSON array"),
        (b'[\n {"prompt": "x"},\n {"prompt": }\n]', r"FILE:3: broken JSON: Expecting value \(column 13\)"),
        (b'[\n "\xff"]', "FILE:2: not UTF-8"),
        (parquet_bytes(RECORDS)[:-30], "broken Parquet after row 0: "),
        (gzip.compress(lines(RECORDS))[:-12], "is a gzip file that is cut or damaged"),
        (b"a,b\n1,\xff\n", "FILE:2: not UTF-8"),
        (b"a,a\n1,2\n", "FILE:1: the header names a column twice: a, a"),
        (b'"a,b\n1,2\n', "FILE:1: is neither JSON nor Parquet, and no header of CSV"),
    ],
)
def test_a_file_that_cannot_be_read_says_why_in_one_line(content, message, tmp_path):
    path = tmp_path / "FILE"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_split_of_a_file_and_a_directory_without_data_are_refused(tmp_path):
    (tmp_path / "FILE").write_bytes(lines(RECORDS))
    with pytest.raises(ValueError, match=r"FILE is one file, which has no split 'test'; leave data.split out"):
        read(tmp_path / "FILE", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no dataset is found in it"):
        read(tmp_path / "empty")
    Dataset.from_list(RECORDS).save_to_disk(tmp_path / "one")
    with pytest.raises(ValueError, match=r"one: is one table, which has no split 'test'"):
        read(tmp_path / "one", "test")
    (arrow,) = Path(tmp_path / "one").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"one: is damaged: "):
        read(tmp_path / "one")
