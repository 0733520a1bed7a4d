import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from infra.digests import canonical_json, digest, generator

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_the_digest_of_known_settings_never_changes() -> None:
    # A changed digest would orphan every version in every store.
    assert digest({"b": 1, "a": [1.5, None, "ü"]}) == "031aae5ec535fa7e"


@given(st.dictionaries(st.text(), JSON, min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    turned = dict(reversed(list(value.items())))
    assert canonical_json(turned) == canonical_json(value)
    assert digest(turned) == digest(value)


@given(JSON, JSON)
def test_unequal_values_have_unequal_digests(one: object, other: object) -> None:
    assert (canonical_json(one) == canonical_json(other)) == (digest(one) == digest(other))


def test_a_generator_gives_the_same_numbers_in_any_process() -> None:
    here = generator(7, "stage", "uid").integers(0, 2**63, 4).tolist()
    code = (
        "from infra.digests import generator;"
        "print(generator(7, 'stage', 'uid').integers(0, 2**63, 4).tolist())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == str(here)


def test_generators_of_other_keys_are_independent() -> None:
    streams = [generator(*key).random(1000) for key in ((0, "a"), (0, "b"), (1, "a"))]
    for one in range(3):
        for other in range(one):
            assert abs(np.corrcoef(streams[one], streams[other])[0, 1]) < 0.15
