"""``tested.json``: what a finished run says of single test rows, so that a report can show some without the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from .files import write_json
from .layout import TESTED
from .stored import DamagedFile, read_json


@dataclass(frozen=True)
class Sample:
    """A test row.

    Attributes:
        id: how the user finds it again. true, said: label, or value, in words. sure: probability of that, None of values.
        cells: a text, or the cells of a table's row. picture: a ``data:`` address, empty where there is none.
    """

    id: str
    true: str
    said: str
    sure: float | None = None
    cells: list[str] = field(default_factory=list)
    picture: str = ""


@dataclass(frozen=True)
class SampledRows:
    """Test rows of a finished run.

    Attributes:
        columns: of the samples' cells. samples: by ``wrong``, ``doubtful`` and ``right``; of values ``wrong`` are those
            farthest off and ``right`` the nearest. names: of the values. pairs: of each value, true and said, up to 500 rows.
    """

    columns: list[str] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    pairs: list[tuple[list[float], list[float]]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        write_json(folder / TESTED, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> SampledRows | None:
        """What a run's folder holds of it; None where a run kept none.

        Raises:
            DamagedFile: when the file is not what it should be.
        """
        path = folder / TESTED
        try:
            found: Any = _Schema.model_validate(read_json(path))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise DamagedFile(path, error.errors()[0]["msg"]) from None
        return cls(found.columns, found.samples, found.names, found.pairs)


class _Schema(BaseModel):
    model_config = ConfigDict(extra="ignore")

    columns: list[str]
    samples: dict[str, list[Sample]]
    names: list[str]
    pairs: list[tuple[list[float], list[float]]]
