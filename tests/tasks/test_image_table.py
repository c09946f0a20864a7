"""Images in any layout whose labels stand in a table: its columns are found, its rows matched, and mistakes said by line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from metaimpute.tasks import MissingData, OwnImages, TaskError
from metaimpute.tasks.base import TaskData
from metaimpute.tasks.doubts import Doubt

from .. import fake_data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path))
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))
    return fake_data.make_listed_images(tmp_path)


def task_of(folder: Path, table: str | None = None, name: str = "labels.csv", **options: object) -> OwnImages:
    """The task of a folder, whose table, beside it, is written first where it is given."""
    path = folder.parent / name
    if table is not None:
        path.write_text(table, encoding="utf-8")
    return OwnImages(folder=str(folder), table=str(path), size=16, **{"test_share": 0.0, **options})  # type: ignore[arg-type]


def load(
    folder: Path, table: str | None = None, name: str = "labels.csv", **options: object
) -> tuple[OwnImages, TaskData]:
    task = task_of(folder, table, name, **options)
    return task, task.load(0)


def labels_of(folder: Path, table: str, name: str = "labels.csv", **options: object) -> dict[str, str]:
    """The label of each labelled image."""
    task, data = load(folder, table, name, **options)
    assert task.label_names is not None and data.labelled.targets is not None
    named = [task.label_names[target] for target in data.labelled.targets.tolist()]
    return dict(zip(task.row_names(data.labelled), named, strict=True))


def mistake(folder: Path, table: str, name: str = "labels.csv", **options: object) -> str:
    with pytest.raises(TaskError) as caught:
        load(folder, table, name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_table_labels_some_images_and_the_others_are_unlabelled(folder: Path) -> None:
    task, data = load(folder)
    assert task.label_names == ["cat", "dog", "fox"]
    assert (len(data.labelled), len(data.unlabelled), len(data.test)) == (18, 18, 0)
    assert data.source == "my_images (no test set)"
    names = task.row_names(data.labelled)
    assert {"00.png", "roll 1/01.png", "roll 2/late/02.png"} <= set(names)
    assert data.labelled.targets is not None and data.unlabelled.targets is not None
    assert data.labelled.targets.tolist() == [int(Path(name).stem) % 3 for name in names]
    assert set(data.unlabelled.targets.tolist()) == {-1}
    assert sorted(int(Path(name).stem) for name in task.row_names(data.unlabelled)) == list(range(18, 36))
    assert task.files_read() == [folder.parent / "labels.csv"]
    told = task.told_by_table()
    assert (told.image_column, told.label) == ("file", "label")


def test_a_share_of_the_labels_is_held_out_and_only_so_many_are_trained_on(folder: Path) -> None:
    _, data = load(folder, test_share=0.2, labels=6)
    assert (len(data.test), len(data.labelled)) == (4, 6)


@pytest.mark.parametrize(
    "word",
    [
        "roll 2/late/02.png",
        "./roll 2/late/02.png",
        "roll 2\\late\\02.png",
        ".\\roll 2\\late\\02.png",
        " roll 2/late/02.png ",
        "roll 2/../roll 2/late/02.png",
        "my_images/roll 2/late/02.png",
        "../somewhere/my_images/roll 2/late/02.png",
        "C:\\photos\\my_images\\roll 2\\late\\02.png",
        "FOLDER/roll 2/late/02.png",
        "02.png",
        "02",
        "roll 2/late/02",
    ],
)
def test_an_image_is_named_in_many_ways(word: str, folder: Path) -> None:
    word = word.replace("FOLDER", str(folder))
    found = labels_of(folder, f"file,label\n{word},cat\n01.png,dog\n")
    assert found == {"roll 2/late/02.png": "cat", "roll 1/01.png": "dog"}


def test_a_whole_path_finds_images_by_a_linked_folder_and_by_where_the_link_leads(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder, target_is_directory=True)
    rows = f"file,label\n{link}/roll 1/01.png,dog\n{folder}/00.png,cat\n"
    assert labels_of(link, rows) == {"roll 1/01.png": "dog", "00.png": "cat"}


def test_a_path_goes_before_a_bare_name_and_a_table_in_the_folder_may_mean_what_lies_beside_it(folder: Path) -> None:
    shutil.copy(folder / "roll 1/01.png", folder / "roll 2/late/00.png")
    found = labels_of(folder, "file,label\n00.png,cat\nroll 2/late/00.png,dog\n")
    assert found == {"00.png": "cat", "roll 2/late/00.png": "dog"}
    shutil.copy(folder / "roll 1/01.png", folder / "roll 1/02.png")
    found = labels_of(folder, "file,label\n02.png,cat\n../../00.png,dog\n", "my_images/roll 2/late/labels.csv")
    assert found == {"roll 2/late/02.png": "cat", "00.png": "dog"}
    said = load(folder, name="my_images/roll 2/late/labels.csv")[1].warnings
    assert not any("left out" in line for line in said), "the table is no stranger among the images"


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("File,Label", ("File", "Label")),
        ("IMAGE_PATH,class", ("IMAGE_PATH", "class")),
        ("file name,species", ("file name", "species")),
        ("whatever,y", ("whatever", "y")),
    ],
)
def test_columns_are_found_by_usual_names_and_by_what_they_hold(
    header: str, columns: tuple[str, str], folder: Path
) -> None:
    task = task_of(folder, f"{header}\n00.png,cat\n01.png,dog\n")
    told = task.told_by_table()
    assert (told.image_column, told.label) == columns
    assert task.label_names == ["cat", "dog"]


def test_a_usual_name_is_no_reason_where_another_column_names_the_images(folder: Path) -> None:
    rows = "".join(f"{1000 + i},photo of a {i},{i:02}.png,{'ab'[i % 2]}\n" for i in range(8))
    assert task_of(folder, f"id,name,shot,label\n{rows}").told_by_table().image_column == "shot"


def test_options_name_the_columns(folder: Path) -> None:
    rows = "file,mask,label,other\n00.png,01.png,x,cat\n04.png,05.png,y,dog\n"
    assert labels_of(folder, rows) == {"00.png": "x", "04.png": "y"}
    found = labels_of(folder, rows, image_column="mask", label="other")
    assert found == {"roll 1/01.png": "cat", "roll 1/05.png": "dog"}
    said = mistake(folder, rows, image_column="msk")
    assert said == "image_column: labels.csv has no column 'msk'; did you mean 'mask'?"
    assert mistake(folder, rows, label="lable") == "label: labels.csv has no column 'lable'; did you mean 'label'?"
    assert mistake(folder, rows, label="file", image_column="file").startswith(
        "label: column 'file' of labels.csv names the"
    )
    said = mistake(folder, "left,right,label\n00.png,01.png,x\n04.png,05.png,y\n")
    assert said.startswith("image_column: labels.csv: columns 'left', 'right' name images; say which")
    said = mistake(folder, "file,mood,colour\n00.png,x,cat\n04.png,y,dog\n")
    assert said == "label: labels.csv: name the column that holds the labels; choose one of: mood, colour"
    assert "has no column beside 'file'" in mistake(folder, "file\n00.png\n04.png\n")
    said = mistake(folder, "a,label\nnothing,x\nat all,y\n")
    assert said.startswith("image_column: labels.csv: no column names images")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            "00.png,cat\n0l.png,dog\n04.png,dog\n",
            "table: 1 label is of an image that my_images does not hold: '0l.png' (line 3 of labels.csv); did you mean",
        ),
        (
            "00.png,cat\n04.png,dog\nq1,dog\nq2,dog\nq3,cat\nq4,cat\nq5,cat\n",
            "table: 5 labels are of images that my_images does not hold: 'q1' (line 4 of labels.csv), 'q2' (line 5 of labels.csv), "
            "'q3' (line 6 of labels.csv) and 2 other words; ",
        ),
        (
            "x/y.png,cat\nx/z.png,dog\n",
            "table: no row of labels.csv with a label names an image in my_images; column 'file' has 'x/y.png' (line 2 of "
            "labels.csv), 'x/z.png' (line 3 of labels.csv); ",
        ),
        (
            "00.png,cat\n04.png,dog\n./00.png,dog\n",
            "table: '00.png' has two labels, 'cat' and 'dog' (lines 2 and 4 of labels.csv); keep one of them",
        ),
        (
            "00.png,cat\n02.png,dog\n",
            "table: '02.png' (line 3 of labels.csv) may be any of 2 images: 'roll 1/02.png', 'roll 2/late/02.png'; write its path",
        ),
        (
            "00.png,\n04.png,\n",
            "table: none of the 2 rows of labels.csv has a label in column 'label'; write some, or name",
        ),
        ("00.png,cat\n04.png,cat\n", "table: there is only the class 'cat'; at least two classes are needed"),
        (
            "00.png,cat\n,dog\n",
            "table: no image is named, and a label given, in line 3 of labels.csv; name the images in 'file'",
        ),
        (
            "00.png,cat\n04.png,dog\nnotes.txt,dog\n",
            "'notes.txt' is there, and is none of the images: hidden, linked, or of another kind",
        ),
        ("00.png,cat\n04.png,dog\n<b>\x1b[1m.png,dog\n", "'<b>\\x1b[1m.png' (line 4 of labels.csv)"),
        ("00.png,cat\n04.png,dog\n\x7f,dog\n" + "a" * 500 + ",dog\n", "'" + "a" * 60 + "...'"),
    ],
)
def test_a_mistake_is_one_line_with_the_place_and_what_is_nearest(rows: str, said: str, folder: Path) -> None:
    shutil.copy(folder / "roll 1/01.png", folder / "roll 1/02.png")
    (folder / "notes.txt").write_text("mine")
    assert said in mistake(folder, f"file,label\n{rows}")


def test_what_is_most_like_a_name_is_told(folder: Path) -> None:
    assert "did you mean 'roll 1/01.png'?" in mistake(folder, "file,label\n00.png,cat\n04.png,dog\nrol 1/01.png,dog\n")
    said = mistake(folder, "file,label\n00.png,cat\n04.png,dog\nzzzzzzz!!,dog\n")
    assert "images are called '00.png', '03.png', '04.png' and 33 more" in said


def test_a_table_without_a_header_is_told(folder: Path) -> None:
    said = mistake(folder, "roll 1/01.png,dog\n00.png,cat\n")
    assert said.startswith(
        "table: the first line of labels.csv names an image, 'roll 1/01.png', and no columns; write a line"
    )


def test_rows_without_a_label_may_name_nothing_and_are_said(folder: Path) -> None:
    _, data = load(folder, "file,label\n00.png,cat\n04.png,dog\n08.png,\ngone.png,\nlost.png,\n")
    assert (
        "rows of labels.csv without a label name no image: 'gone.png' (line 5 of labels.csv), 'lost.png' (line 6 of "
        "labels.csv)"
    ) in data.warnings
    assert len(data.labelled) == 2 and len(data.unlabelled) == 34


def test_the_same_image_twice_is_one_where_its_labels_agree(folder: Path) -> None:
    found = labels_of(folder, "file,label\n00.png,1\n04.png,2\n./00.png,1.0\n00.png,\n")
    assert found == {"00.png": "1", "04.png": "2"}


def test_labels_are_as_they_are_written(folder: Path) -> None:
    assert set(labels_of(folder, "file,label\n00.png,01\n04.png,10\n08.png,1e3\n").values()) == {"01", "10", "1e3"}


def test_words_for_none_are_asked_about_or_named(folder: Path) -> None:
    rows = "file,label\n" + "".join(f"{i:02}.png,{('cat', 'dog', 'unknown')[i % 3]}\n" for i in range(18))
    with pytest.raises(Doubt, match="label: 'unknown' stands in 6 of 18 rows") as caught:
        load(folder, rows)
    assert caught.value.setting == 'task.missing_values={"label": ["unknown"]}'
    for words in (["unknown"], {"label": ["unknown"]}):
        task, data = load(folder, missing_values=words)
        assert task.label_names == ["cat", "dog"] and len(data.labelled) == 12 and len(data.unlabelled) == 24
    assert load(folder, missing_values=[])[0].label_names == ["cat", "dog", "unknown"]
    with pytest.raises(TaskError, match="missing_values: labels.csv has no column 'lable'; did you mean 'label'"):
        load(folder, missing_values={"lable": ["x"]})


def test_labels_that_look_alike_are_said(folder: Path) -> None:
    _, data = load(folder, "file,label\n00.png,cat\n04.png,Cat\n08.png,dog\n12.png,dog \n")
    said = " ".join(data.warnings)
    assert "'cat' and 'Cat' differ only by blanks or capitals and are taken as two classes" in said
    assert "'dog' and 'dog ' differ only by blanks around them and are taken as one class" in said


def test_where_nothing_is_unlabelled_it_says_what_to_do(folder: Path) -> None:
    rows = "file,label\n" + "".join(f"{i:02},{'ab'[i % 2]}\n" for i in range(36))
    said = mistake(folder, rows)
    assert said.startswith("every example has a label; take some out of the table, or leave their labels blank, or set")
    assert len(load(folder, unlabelled_includes_labelled=True)[1].unlabelled) == 36


def test_images_that_cannot_be_read_are_left_out_with_their_labels(folder: Path) -> None:
    (folder / "00.png").write_bytes(b"no image")
    task, data = load(folder)
    assert len(data.labelled) == 17 and "left out 1 image that cannot be read: 00.png" in data.warnings
    assert "00.png" not in task.row_names(data.labelled)


def test_hidden_files_and_other_kinds_are_no_images(folder: Path) -> None:
    shutil.copytree(folder / "roll 1", folder / ".thumbnails")
    (folder / "notes.txt").write_text("mine")
    _, data = load(folder)
    assert len(data.unlabelled) == 18 and "left out of my_images: 1 .txt, 1 hidden" in " ".join(data.warnings).replace(
        "1 hidden, 1 .txt", "1 .txt, 1 hidden"
    )


def test_a_parquet_table_and_names_with_accents(folder: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    (folder / "cafe\u0301.png").write_bytes((folder / "00.png").read_bytes())
    frame = pandas.DataFrame({"id": ["caf\u00e9.png", "04.png"], "label": [1, 0]})
    frame.to_parquet(folder.parent / "t.parquet")
    task, data = load(folder, name="t.parquet")
    assert sorted(task.row_names(data.labelled)) == ["04.png", "cafe\u0301.png"] and task.label_names == ["0", "1"]


def test_a_folder_sorted_into_classes_is_one_like_others_and_that_is_said(tmp_path: Path) -> None:
    folder = fake_data.make_own_images(tmp_path)
    _, data = load(folder, "file,label\nunlabelled/0.png,a\nlabelled/class0/0.png,b\n")
    assert len(data.labelled) == 2 and len(data.unlabelled) == 15 + 24 + 9 - 2
    assert "labelled/ is read as any other folder: labels are those of labels.csv alone" in data.warnings


def test_options_of_a_table_need_one(folder: Path) -> None:
    for option, value in (("image_column", "file"), ("label", "label"), ("missing_values", ["?"])):
        with pytest.raises(
            TaskError, match=f"{option}: is of a table of labels, and there is none; name it with table"
        ):
            OwnImages(folder=str(folder), **{option: value}).check()  # type: ignore[arg-type]
    absent = OwnImages(folder=str(folder), table="none.csv")
    assert "file none.csv not found" in str(absent.missing()[0])
    with pytest.raises(MissingData, match="put it there, or name another with task.table"):
        absent.load(0)
    nowhere = OwnImages(folder="nowhere", table=str(folder.parent / "labels.csv"))
    assert str(nowhere.missing()[0]).startswith("images (nowhere/) not found")
    empty = folder.parent / "empty"
    empty.mkdir()
    with pytest.raises(TaskError, match="folder: .*empty holds no images"):
        load(empty)
    with pytest.raises(TaskError, match=r"cannot be read as a table"):
        load(folder, "")


def test_new_images_are_called_by_their_paths_in_the_folder(folder: Path, tmp_path: Path) -> None:
    task, _ = load(folder)
    assert task.read(folder / "roll 2")[0][0] == "roll 2/late/02.png"
    assert task.read(folder / "roll 2/late/02.png")[0] == ["roll 2/late/02.png"]
    later = OwnImages(folder="my_images", table="labels.csv", size=16)
    moved = tmp_path / "moved" / "my_images"
    shutil.copytree(folder, moved)
    assert later.read(moved / "roll 1")[0][0] == "roll 1/01.png"
    shutil.copytree(folder / "roll 1", folder / "my_images")
    assert task.read(folder / "my_images")[0][0] == "my_images/01.png", (
        "the folder itself goes before one called the same"
    )
    assert OwnImages(folder="../my_images", table="t.csv").root_of(moved / "roll 1") == moved
    shutil.copytree(folder, tmp_path / "others")
    assert task.read(tmp_path / "others" / "roll 1")[0][0] == "01.png"
    Image.new("RGB", (20, 20)).save(tmp_path / "one.png")
    assert task.read(tmp_path / "one.png")[0] == ["one.png"]


def test_a_name_beside_the_table_and_one_inside_the_folder_are_not_told_apart(folder: Path) -> None:
    (folder / "roll 1" / "00.png").write_bytes((folder / "00.png").read_bytes())
    (folder / "roll 1" / "labels.csv").write_text("file,label\n00.png,cat\n04.png,dog\n")
    with pytest.raises(
        TaskError, match=r"'00\.png' \(line 2 of labels\.csv\) may be any of 2 images: .*or its whole path"
    ):
        OwnImages(folder=str(folder), table=str(folder / "roll 1" / "labels.csv")).load(0)
    (folder / "roll 1" / "labels.csv").write_text("file,label\n../00.png,cat\n04.png,dog\n")
    assert len(OwnImages(folder=str(folder), table=str(folder / "roll 1" / "labels.csv")).load(0).labelled) == 2


def test_an_image_of_another_folder_is_not_said_to_be_there(folder: Path) -> None:
    (folder.parent / "elsewhere.png").write_bytes((folder / "00.png").read_bytes())
    for cell in ("../elsewhere.png", str(folder.parent / "elsewhere.png"), "."):
        assert "is there" not in mistake(folder, f"file,label\n00.png,cat\n04.png,dog\n{cell},dog\n")
