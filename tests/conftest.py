"""What every test relies on."""

import pytest

# pytest.approx(x, rel=r) also accepts an absolute 1e-12, which hides every gap below it: a test that
# asks for a relative error shall get one.  Tests that want an absolute one say so (abs=...).
type(pytest.approx(1.0)).DEFAULT_ABSOLUTE_TOLERANCE = 0.0
