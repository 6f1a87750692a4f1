"""tests/catalogue.toml is true: no row is missing, no row is claimed without a test, no test names a row that is not there."""

from __future__ import annotations

import pytest

from tests import catalogue

DOCUMENT = catalogue.load()
ROWS = catalogue.all_rows(DOCUMENT)
COUNTS = {"RT": 86, "EX": 71, "TL": 83, "LC": 87, "EN": 52, "IN": 75, "CP": 65, "BL": 20, "NF": 25}


def test_every_row_of_the_catalogue_is_there_once() -> None:
    assert len(ROWS) == len(set(ROWS)) == 564
    assert {prefix: sum(row.startswith(prefix) for row in ROWS) for prefix in COUNTS} == COUNTS
    assert set(DOCUMENT["row"]) == set(ROWS)


def test_every_row_has_one_status() -> None:
    for row, entry in DOCUMENT["row"].items():
        statuses = {"tested", "later", "not_applicable"} & set(entry)
        assert len(statuses) == 1, f"{row}: {entry}"
        if "later" in entry:
            assert entry["later"] in DOCUMENT["capabilities"], f"{row} waits for a capability that nobody knows: {entry}"


def test_tests_name_only_rows_that_exist() -> None:
    unknown = {row: tests for row, tests in catalogue.marked().items() if row not in ROWS}
    assert not unknown


@pytest.mark.parametrize("prefix", COUNTS)
def test_the_tests_of_each_row_are_those_that_name_it(prefix: str) -> None:
    expected = {row: entry for row, entry in catalogue.updated(DOCUMENT).items() if row.startswith(prefix)}
    assert {row: DOCUMENT["row"][row] for row in expected} == expected, "bring it up to date: python -m tests.catalogue --write"
