"""The committed sabotages still fit the code; `make mutants` runs them."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.mutants import ROOT, Mutant, all_mutants, files_of

MUTANTS = all_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_sabotage_changes_one_place_and_has_tests_that_should_notice(mutant: Mutant) -> None:
    assert (ROOT / mutant.path).read_text().count(mutant.old) == 1 and mutant.new != mutant.old
    assert mutant.tests and all((ROOT / name).exists() for name in files_of(mutant.tests))


def test_names_are_not_used_twice() -> None:
    assert max(Counter(mutant.name for mutant in MUTANTS).values()) == 1
