"""The table of what can happen is whole: no row is without a test or a reason, and it names what there is."""

from __future__ import annotations

import fault_table


def test_no_row_is_without_a_test_or_a_sentence_why() -> None:
    tests = fault_table.marked()
    empty = [name for name, row in fault_table.rows().items() if name not in tests and not row.get("open")]
    assert empty == []


def test_every_marker_names_a_row() -> None:
    assert fault_table.marked().keys() <= fault_table.rows().keys()


def test_every_row_says_what_must_be_so_and_what_is_open_in_one_sentence() -> None:
    for name, row in fault_table.rows().items():
        assert row.keys() <= {"fault", "promise", "open"}, name
        assert row["promise"], name
        assert row.get("open", ".").endswith("."), name
        assert not any(mark in text for text in (name, *row.values()) for mark in "|\n"), name


def test_the_table_is_that_of_the_rows_the_tests_and_the_results() -> None:
    found = fault_table.table_in(fault_table.README.read_text())
    assert found == fault_table.table(fault_table.read_results()), "python tests/fault_table.py writes it"


def test_no_test_of_the_table_failed_when_it_was_last_run() -> None:
    results = fault_table.read_results()
    assert results
    assert {name for name, entry in results.items() if entry["failed"]} == set()


def test_no_marker_is_in_a_form_that_the_table_does_not_read() -> None:
    for path in (fault_table.ROOT / "tests").rglob("test_*.py"):
        if path.name != "test_fault_table.py":
            assert path.read_text().count("pytest.mark.fault(") == len(list(fault_table.markers(path))), path
