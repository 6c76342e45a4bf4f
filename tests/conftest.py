"""What every test relies on."""

import pytest
import scipy.linalg  # noqa: F401  (limits reach the BLAS of NumPy and SciPy once both are loaded)
from threadpoolctl import threadpool_limits

# pytest.approx(x, rel=r) also accepts an absolute 1e-12, which hides every gap below it: a test that
# asks for a relative error shall get one.  Tests that want an absolute one say so (abs=...).
type(pytest.approx(1.0)).DEFAULT_ABSOLUTE_TOLERANCE = 0.0

# Tests run in as many processes as there are cores: more threads would wait for each other, and their
# waiting would count as processor time in tests of speed.
threadpool_limits(1, user_api="blas")
