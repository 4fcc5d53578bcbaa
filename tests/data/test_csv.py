from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobilenets.data import open_data
from mobilenets.errors import InputError

Write = Callable[..., Path]


def table(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def test_names_relative_and_absolute(pets: Path) -> None:
    path = table(pets / "set.csv", f"file,label\ncats/0.png,cat\n{pets}/dogs/0.png,dog\ndogs/1.png, dog \n")
    data = open_data(path)
    assert data.labels == ("cat", "dog")
    assert data.everything.targets.tolist() == [0, 1, 1]
    assert [data.everything.name(index) for index in range(3)] == ["cats/0.png", f"{pets}/dogs/0.png", "dogs/1.png"]
    assert data.name == "set"


@pytest.mark.parametrize(
    "heading", ["file,label", "Filename,CLASS", "image,category", "path,target", "file,imagenet_index"]
)
def test_usual_headings_are_understood(pets: Path, heading: str) -> None:
    data = open_data(table(pets / "x.csv", f"{heading}\ncats/0.png,a\ndogs/0.png,b\n"))
    assert data.labels == ("a", "b")


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-8"), (",", "utf-8-sig")])
def test_spreadsheets_delimiters_and_marks_are_understood(pets: Path, delimiter: str, encoding: str) -> None:
    text = "file,label,note\ncats\\0.png,a,x\r\n\r\ndogs/0.png,b,y\r\n".replace(",", delimiter)
    assert len(open_data(table(pets / "x.csv", text, encoding)).everything) == 2


def test_whole_numbers_are_class_indices_from_zero(pets: Path) -> None:
    path = table(pets / "x.csv", "file,label\ncats/0.png,3\ncats/1.png,3\ndogs/0.png,0\ndogs/1.png,0\n")
    data = open_data(path)
    assert data.labels == ("0", "1", "2", "3")
    assert data.everything.targets.tolist() == [3, 3, 0, 0]
    assert data.problems == ("classes without any picture (2 of 4): '1', '2'",)
    model = open_data(path, labels=[f"class {index}" for index in range(1000)])
    assert model.everything.targets.tolist() == [3, 3, 0, 0]
    assert model.problems == ()
    with pytest.raises(InputError, match="2 of 2 classes are not among the model's 2: '0', '3'"):
        open_data(path, labels=["a", "b"])


def test_a_split_column_decides(pets: Path) -> None:
    rows = ["cats/0.png,a,train", "dogs/0.png,b,Train", "cats/1.png,a,valid", "dogs/1.png,b,VAL"]
    rows += ["cats/2.png,a,test", "cats/3.png,a,maybe"]
    data = open_data(table(pets / "x.csv", "\n".join(["file,label,split", *rows])))
    assert [len(data.train), len(data.val)] == [2, 2]
    assert data.problems == ("x.csv line 7: cats/3.png: its part is neither train, val nor test: correct it (skipped)",)


def test_rows_that_cannot_be_used_are_named_by_line(pets: Path) -> None:
    rows = "cats/0.png,a\ngone.png,a\n,a\ncats/1.png,\ncats/2.png\ndogs/0.png,b\ncats/0.png,b\ndogs/0.png,b\n"
    data = open_data(table(pets / "x.csv", f"file,label\n{rows}"))
    assert len(data.everything) == 2
    assert data.problems[:5] == (
        "x.csv line 3: gone.png: no such file: correct or remove it (skipped)",
        "x.csv line 4: no file: complete or remove it (skipped)",
        "x.csv line 5: cats/1.png has no label: complete or remove it (skipped)",
        "x.csv line 6: 1 fields are too few: complete or remove it (skipped)",
        "x.csv line 8: cats/0.png is 'b' here and 'a' above: decide (skipped)",
    )


def test_hundreds_of_bad_rows_are_not_hundreds_of_lines(pets: Path) -> None:
    rows = "cats/0.png,a\ncats/1.png,a\ndogs/0.png,b\ndogs/1.png,b\n" + "".join(f"gone{i}.png,a\n" for i in range(300))
    problems = open_data(table(pets / "x.csv", f"file,label\n{rows}")).problems
    assert len(problems) == 21
    assert problems[-1] == "x.csv: 280 more rows like these (skipped)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column for a picture's file: name it 'file'"),
        (
            b"name,age\nx,1\n",
            "no column for a picture's file: name it 'file' in the first line, which has 'name', 'age'",
        ),
        (b"file\nx.png\n", "no column for its label: name it 'label'"),
        (b"file,label\nx.png,a\n", r"no row names an existing picture \(x.csv line 2: x.png: no such file"),
        (b"file,label\ncats/0.png,-1\ncats/1.png,0\n", "label -1: class indices count from 0"),
        (b"file,label\ncats/0.png,123456\n", "123456 is no class index"),
        (b"file,label\ncats/0.png,\xff\xfe\n", "not UTF-8 text"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(pets: Path, content: bytes, message: str) -> None:
    (pets / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_data(pets / "x.csv")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.sampled_from(list("file,label\n\r\t;\"'0-19x./\\é\0 cats.png")), max_size=120))
def test_any_text_is_read_or_refused_in_one_line(pets: Path, text: str) -> None:
    path = pets / "x.csv"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(InputError) as caught:
        open_data(path)
    assert "x.csv" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_with_labels_csv_is_its_table(pets: Path) -> None:
    (pets / "images").mkdir()
    (pets / "cats" / "0.png").rename(pets / "images" / "a.png")
    table(pets / "labels.csv", "file,label\na.png,x\ndogs/0.png,y\n")
    assert open_data(pets).labels == ("x", "y")


def test_photos500_has_all_its_pictures_for_a_model_of_1000_classes(shared_data: Path) -> None:
    labels = [f"class {index}" for index in range(1000)]
    data = open_data(shared_data / "photos500" / "labels.csv", labels=labels)
    assert len(data.everything) == 500
    assert data.labels == tuple(labels)
    assert data.problems == ()
    first = [data.everything.name(index) for index in range(500)].index("0c7ac4a8c9dfa802.jpg")
    assert data.everything.target(first) == 305
