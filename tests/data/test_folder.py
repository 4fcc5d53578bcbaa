from __future__ import annotations

import os
import shutil
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mobilenets.data import Data, open_data
from mobilenets.errors import InputError

Write = Callable[..., Path]


def labels_by_name(data: Data) -> dict[str, str]:
    whole = data.everything
    return {whole.name(index): whole.labels[whole.target(index)] for index in range(len(whole))}


def test_one_folder_a_class(pets: Path) -> None:
    data = open_data(pets)
    assert data.labels == ("cats", "dogs")
    assert (len(data.train), len(data.val), len(data.everything)) == (8, 2, 10)
    assert not data.own_val
    assert data.problems == ()
    assert data.name == pets.name
    assert labels_by_name(data)["dogs/3.png"] == "dogs"
    index = [data.everything.name(i) for i in range(10)].index("dogs/3.png")
    assert data.everything.picture(index).shape == (16, 23, 3)


@pytest.mark.parametrize(
    ("train", "val"), [("train", "val"), ("Training", "VALID"), ("train", "validation"), ("train", "test")]
)
def test_train_and_val_folders(write_picture: Write, tmp_path: Path, train: str, val: str) -> None:
    for part, count in ((train, 3), (val, 2)):
        for label in ("a", "b"):
            for index in range(count):
                write_picture(f"{part}/{label}/{index}.png")
    data = open_data(tmp_path)
    assert (len(data.train), len(data.val), len(data.everything)) == (6, 4, 10)
    assert data.own_val
    assert all(data.val.name(index).startswith(val) for index in range(4))
    assert data.problems == ()


def test_test_is_left_alone_beside_val_and_serves_without_it(write_picture: Write, tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        for label in ("a", "b"):
            write_picture(f"{part}/{label}/0.png")
    assert open_data(tmp_path).val.name(0).startswith("val/")
    shutil.rmtree(tmp_path / "val")
    assert open_data(tmp_path).val.name(0).startswith("test/")


def test_a_validation_part_alone_can_be_evaluated(write_picture: Write, tmp_path: Path) -> None:
    write_picture("val/a/0.png")
    write_picture("val/b/0.png")
    data = open_data(tmp_path, labels=["b", "a"])
    assert len(data.train) == 0
    assert [data.val.target(index) for index in range(2)] == [1, 0]


def test_a_folder_around_the_class_folders_is_stepped_into(write_picture: Write, tmp_path: Path) -> None:
    for part in ("train", "val"):
        for label in ("a", "b"):
            write_picture(f"download/inner/{part}/{label}/0.png")
    assert open_data(tmp_path).own_val


def test_sub_folders_of_a_class_belong_to_it(write_picture: Write, tmp_path: Path) -> None:
    write_picture("a/2021/may/0.png")
    write_picture("a/1.png")
    write_picture("b/0.png")
    assert labels_by_name(open_data(tmp_path)) == {"a/1.png": "a", "a/2021/may/0.png": "a", "b/0.png": "b"}


def test_what_is_no_picture_is_passed_over_or_named(pets: Path, write_picture: Write) -> None:
    for litter in (
        "cats/Thumbs.db",
        "cats/.DS_Store",
        "dogs/.hidden.png",
        "desktop.ini",
        "__MACOSX/._x.png",
        "README.md",
    ):
        (pets / litter).parent.mkdir(exist_ok=True)
        (pets / litter).write_bytes(b"x")
    (pets / "cats" / "notes.txt").write_text("a note")
    (pets / "cats" / "empty.jpg").touch()
    (pets / "cats" / "page.jpg").write_text("<html>404</html>")
    (pets / "dogs" / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (pets / "empty").mkdir()
    write_picture("loose.jpg")
    data = open_data(pets)
    assert len(data.everything) == 10
    assert data.labels == ("cats", "dogs")
    assert set(data.problems) == {
        "cats/notes.txt: not a picture (.txt) (skipped)",
        "cats/empty.jpg: empty file: replace or remove it (skipped)",
        "cats/page.jpg: not a picture in a format that is read here: replace or remove it (skipped)",
        "dogs/photo.heic: not a picture (.heic) (skipped)",
        "empty: no pictures in this class folder: fill or remove it (skipped)",
        "loose.jpg: not in a class folder (skipped)",
    }
    with pytest.raises(InputError, match=r"\(and 5 more\): mend it, or leave out --strict$"):
        open_data(pets, strict=True)


def test_many_files_of_one_kind_are_one_line(pets: Path) -> None:
    for index in range(1200):
        (pets / "cats" / f"{index:04}.xml").touch()
    expected = "1,200 files: not a picture (.xml): 'cats/0000.xml', 'cats/0001.xml', 'cats/0002.xml', ... (skipped)"
    assert open_data(pets).problems == (expected,)


def test_upper_case_endings_and_none_are_pictures(pets: Path) -> None:
    (pets / "cats" / "0.png").rename(pets / "cats" / "0.PNG")
    (pets / "cats" / "1.png").rename(pets / "cats" / "photo")
    data = open_data(pets)
    assert {"cats/0.PNG", "cats/photo"} <= set(labels_by_name(data))
    assert data.problems == ()


def test_a_gif_among_photographs_is_named_and_a_set_of_gifs_is_used(pets: Path, write_picture: Write) -> None:
    for index in range(5, 15):
        write_picture(f"dogs/{index}.png", seed=index)
    write_picture("cats/not_found.gif")
    (problem,) = open_data(pets).problems
    assert problem.startswith("cats/not_found.gif: a GIF among photographs")
    for index in range(10):
        write_picture(f"dogs/{index}.gif", seed=index)
    data = open_data(pets)
    assert data.problems == ()
    assert len(data.everything) == 31


def test_truncated_pictures_are_found_whether_or_not_everything_is_decoded(pets: Path, write_picture: Write) -> None:
    for name in ("cats/cut.jpg", "cats/cut.png", "dogs/cut.webp"):
        path = write_picture(name, size=(300, 300))
        path.write_bytes(path.read_bytes()[:-2000])
    write_picture("cats/whole.jpg")
    for decode_bytes in (1 << 30, 0):
        data = open_data(pets, decode_bytes=decode_bytes)
        assert len(data.everything) == 11
        assert sorted(problem.split(":")[0] for problem in data.problems) == [
            "cats/cut.jpg",
            "cats/cut.png",
            "dogs/cut.webp",
        ]


def test_unicode_names_composed_either_way_are_one_class(write_picture: Write, tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Äpfel 🍎") for form in ("NFC", "NFD"))
    write_picture(f"train/{composed}/ü.png")
    write_picture("train/梨/1.png")
    write_picture(f"val/{decomposed}/é.png")
    write_picture("val/梨/2.png")
    data = open_data(tmp_path)
    assert data.labels == (composed, "梨")
    assert data.problems == ()


def test_names_that_are_no_utf8_can_still_be_printed(pets: Path) -> None:
    folder = os.fsencode(pets) + b"/cats/\xff\xfe.png"
    shutil.copy(os.fsencode(pets / "cats" / "0.png"), folder)
    data = open_data(pets)
    assert len(data.everything) == 11
    assert all(name.encode("utf-8") for name in labels_by_name(data))


def test_links_are_followed_and_broken_or_circular_ones_named(pets: Path, write_picture: Write) -> None:
    elsewhere = write_picture("elsewhere/dogs/9.png").parent
    shutil.move(pets / "elsewhere", pets.parent / f"{pets.name}-elsewhere")
    elsewhere = pets.parent / f"{pets.name}-elsewhere" / "dogs"
    (pets / "dogs" / "linked.png").symlink_to(elsewhere / "9.png")
    (pets / "birds").symlink_to(elsewhere)
    (pets / "dogs" / "broken.png").symlink_to(pets / "gone.png")
    (pets / "dogs" / "circle").symlink_to(pets)
    data = open_data(pets)
    assert data.labels == ("birds", "cats", "dogs")
    assert len(data.everything) == 12
    assert sorted(problem.split(":")[0] for problem in data.problems if "class" not in problem) == [
        "dogs/broken.png",
        "dogs/circle",
    ]


def test_one_class_and_lone_pictures_are_said(write_picture: Write, tmp_path: Path) -> None:
    write_picture("cats/0.png")
    write_picture("cats/1.png", seed=1)
    assert open_data(tmp_path).problems == (
        "only one class, 'cats': every answer will be 'cats'; add a folder for another",
    )
    write_picture("dogs/0.png")
    data = open_data(tmp_path)
    assert data.problems == ("classes of a single picture, trained on and not measured (1 of 2): 'dogs'",)
    assert data.val.labels == ("cats", "dogs")


def test_classes_of_one_part_only_are_said(write_picture: Write, tmp_path: Path) -> None:
    for name in ("train/a/0.png", "train/b/0.png", "val/a/0.png", "val/B/0.png"):
        write_picture(name)
    data = open_data(tmp_path)
    assert data.labels == ("B", "a", "b")
    assert data.problems == (
        "classes in the validation part alone, never learned (1 of 3): 'B'",
        "classes missing from the validation part, not measured (1 of 3): 'b'",
    )


def test_folders_named_by_numbers_are_in_their_order(write_picture: Write, tmp_path: Path) -> None:
    for label in ("10", "9", "0"):
        write_picture(f"{label}/0.png")
    assert open_data(tmp_path).labels == ("0", "9", "10")


def test_a_folder_without_class_folders_is_refused(write_picture: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no class folders: put the pictures of each class into a folder"):
        open_data(tmp_path)
    write_picture("0.png")
    with pytest.raises(InputError, match="its pictures lie side by side: put"):
        open_data(tmp_path)
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "bad.jpg").touch()
    with pytest.raises(InputError, match="no usable pictures"):
        open_data(tmp_path)


def test_strange_folders_beside_train_are_named(write_picture: Write, tmp_path: Path) -> None:
    for name in ("train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/0.png", "extra/a/0.png", "train/0.png"):
        write_picture(name)
    assert set(open_data(tmp_path).problems) == {
        "extra: neither train, val nor test: rename or remove it (skipped)",
        "train/0.png: not in a class folder (skipped)",
    }


def test_a_zip_is_read_as_the_folder_it_holds(pets: Path, tmp_path: Path) -> None:
    archive = tmp_path / "pets.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(pets.rglob("*.png")):
            file.write(path, f"pets/{path.relative_to(pets)}")
        file.writestr("__MACOSX/pets/cats/._0.png", b"x")
        file.writestr("pets/cats/broken.jpg", b"not a picture")
    folder, zipped = open_data(pets), open_data(archive)
    assert zipped.labels == folder.labels
    assert [problem.split(":")[0] for problem in zipped.problems] == ["pets/cats/broken.jpg"]
    for index in range(len(folder.everything)):
        assert (zipped.everything.picture(index) == folder.everything.picture(index)).all()
    from_file = open_data(archive, keep_bytes=0).everything
    assert (from_file.picture(3) == zipped.everything.picture(3)).all()


def test_a_broken_zip_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"x\.zip: not a readable zip archive"):
        open_data(tmp_path / "x.zip")


def test_grey_folders_have_one_channel(write_picture: Write, tmp_path: Path) -> None:
    for label in ("a", "b"):
        for index in range(3):
            write_picture(f"{label}/{index}.png", grey=True, seed=index)
    assert open_data(tmp_path).train.channels == 1
    assert open_data(tmp_path).train.picture(0).shape == (16, 20, 1)
    write_picture("a/colour.png")
    data = open_data(tmp_path)
    assert data.everything.channels == 3
    assert all(data.everything.picture(index).shape == (16, 20, 3) for index in range(7))


def test_rotated_photographs_are_upright_and_counted_so(pets: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20), "red").save(pets / "cats" / "turned.jpg", exif=exif)
    whole = open_data(pets).everything
    index = [whole.name(i) for i in range(len(whole))].index("cats/turned.jpg")
    assert whole.picture(index).shape == (30, 20, 3)


def test_ants_and_bees(shared_data: Path) -> None:
    data = open_data(shared_data / "ants_bees")
    assert (len(data.train), len(data.val), data.labels) == (244, 153, ("ants", "bees"))
    (problem,) = data.problems
    assert problem.startswith("train/ants/imageNotFound.gif: ")
    with pytest.raises(InputError, match=r"ants_bees: train/ants/imageNotFound\.gif: "):
        open_data(shared_data / "ants_bees", strict=True)
