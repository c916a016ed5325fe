"""That the table of mutants fits the source."""

import pytest

from tests.mutants.run import ROOT, check_table
from tests.mutants.table import MUTANTS, ROOMS


@pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="needs the source tree")
def test_every_mutant_changes_one_place_and_has_a_room():
    check_table()
    assert {mutant.room for mutant in MUTANTS} == set(ROOMS)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    for room in ROOMS.values():
        assert all((ROOT / test).exists() for test in room.tests)
