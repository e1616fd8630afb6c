"""The tables that a benchmark prints ask for what can be carried out."""

import pytest
from benchmarks.attack_tables import TABLES, request

from gifthorse.bench.cell import resolve


@pytest.mark.parametrize("table", TABLES)
def test_every_attack_of_a_table_is_understood(table: int) -> None:
    for condition in TABLES[table]:
        assert condition.published.keys() == TABLES[table][0].published.keys()
        for name in condition.published:
            fields = {"trigger_position": "center", **condition.fields}
            attack = resolve(dataset="mnist", attack=request(name, fields, "mnist", 12), seed=12).attack
            assert attack.name == name
            assert {key: str(attack.to_dict()[key]) for key in condition.fields} == condition.fields
            assert attack.to_dict()["target"] == 2
